"""Parareal: a quick propagator guesses, a trusted one corrects all slabs of time side by side.

Time is cut into slabs. The quick, coarse map G leads through all of them; from the starts it finds
the trusted map F runs every slab, in parallel; the sum

    U[n] <- G(U[n-1]) + F(U_old[n-1]) - G(U_old[n-1])

is the next guess (Lions, Maday and Turinici, C. R. Acad. Sci. Paris 332, 661 (2001),
doi:10.1016/S0764-4442(00)01793-6; here in the form of Baffico et al., Phys. Rev. E 66, 057701
(2002), eq. 3, doi:10.1103/PhysRevE.66.057701). It is applied to every frame of a slab. After k
rounds the first k slabs are those of the serial run of F, bit for bit; far fewer rounds bring all
of them as close as asked when G is good.

Where rounds do not converge the window of slabs is cut (Legoll, Lelievre and Sharma, SIAM J. Sci.
Comput. 44, B1109 (2022), doi:10.1137/21M1412979), and where even short windows gain nothing the
rest is run by F alone, and a warning says so.

| symbol | variable |
|---|---|
| F(U_old) | `Slab.fine` |
| G(U_old) | `Slab.coarse` |
| U, all frames of a slab | `Slab.frames` |
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from egno_md.propagators.fine_slabs import FineSlabs, Recipe, SolvedSlab
from egno_md.propagators.own_baths import draws_noise, has_bath
from egno_md.propagators.parareal_report import PararealReport
from egno_md.propagators.restart import named_under, taken_from
from egno_md.propagators.slab_window import Slab, SlabFrames, SlabWindow
from egno_md.roles import Propagator, refuse_no_propagator
from egno_md.segment import Event, MadeBy, Segment
from egno_md.state import State

#: A position that changes by more from one round to the next has left the path, Å.
_LOST_A = 1.0

#: Windows shorter than this gain nothing, and after so many in a row that gained nothing the
#: coarse propagator is refused.
_SHORTEST, _FRUITLESS = 4, 2


class Parareal:
    """Trajectories of a trusted propagator, made in parallel with the guesses of a quick one.

    Both must be deterministic. What is handed over differs from the serial trajectory of the
    trusted propagator by less than the tolerance within one call of `advance`; such differences
    grow from call to call as all do in a chaotic system. Energies are those of the trusted frames
    of the last round, which lie within the tolerance of the frames handed over.

    A bath goes around it: `Thermostatted(Parareal(...), ...)` makes the trajectory of
    `Thermostatted(trusted)` with segments as long, since its noise acts between calls.
    """

    reversible = False
    volume_preserving = False

    def __init__(
        self,
        coarse: Propagator,
        fine: Propagator | Recipe,
        *,
        n_slabs: int = 16,
        frames_per_slab: int = 1,
        tolerance_A: float = 1e-4,
        n_workers: int = 1,
        executor: Any = None,  # noqa: ANN401 - anything with submit or map
        slabs_at_once: int = 1,
        n_threads: int | None = None,
    ) -> None:
        """Put both together.

        Args:
            coarse: makes the guesses, for example a `LearnedPropagator`.
            fine: the trusted propagator, or a recipe that makes it, which workers need.
            n_slabs: slabs of a full segment, which is also the longest window.
            frames_per_slab: frames of each.
            tolerance_A: rounds end when no position of any frame changes by more.
            n_workers: processes that run the trusted propagator; 1 runs it here.
            executor: used in place of processes of our own, see `FineSlabs`.
            slabs_at_once: slabs that run together as replicas in one task: quicker where a
                potential gains from batches, as on a GPU; exact to rounding then.
            n_threads: torch threads of a worker; those of this process when None.

        Raises:
            ValueError: if frame intervals differ, a propagator is none or draws random numbers,
                or a number is out of range.
        """
        refuse_no_propagator("coarse", coarse)
        if not callable(fine):
            refuse_no_propagator("fine", fine)
        for name, value in (("n_slabs", n_slabs), ("frames_per_slab", frames_per_slab)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not 0.0 < tolerance_A < math.inf:
            raise ValueError(f"tolerance_A is {tolerance_A}; it must be a positive number of Å")
        self._fine_slabs = FineSlabs(
            fine,
            n_workers=n_workers,
            executor=executor,
            slabs_at_once=slabs_at_once,
            n_threads=n_threads,
        )
        self.coarse, self.fine = coarse, self._fine_slabs.fine
        _check_pair(coarse, self.fine)
        self.n_slabs, self.frames_per_slab = n_slabs, frames_per_slab
        self.tolerance_A = tolerance_A
        #: What was done so far and what it cost.
        self.report = PararealReport()
        self._size = n_slabs
        self._cold = True

    @property
    def frame_interval_fs(self) -> float:
        """Time between frames."""
        return self.fine.frame_interval_fs

    @property
    def n_frames(self) -> int:
        """Frames of one full segment."""
        return self.n_slabs * self.frames_per_slab

    def close(self) -> None:
        """End the worker processes, if any."""
        self._fine_slabs.close()

    def __enter__(self) -> Parareal:
        """Return itself; leaving ends the workers."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self.close()

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state` by the trusted propagator, to the tolerance.

        Args:
            state: where to start.
            n_frames: how many frames; a full segment when None.

        Raises:
            ValueError: if no frames are asked for, or where the trusted propagator fails on a
                path that is its own.

        Warns:
            RuntimeWarning: once, if the coarse propagator is too poor to gain anything.
        """
        count = self.n_frames if n_frames is None else n_frames
        if count < 1:
            raise ValueError(f"n_frames is {count}; ask for at least one frame")
        if self._cold:
            self._warm_up(state)
        began = time.perf_counter()
        kept: list[tuple[SlabFrames, Tensor]] = []
        events: tuple[Event, ...] = ()
        here, done, fruitless = state, 0, 0
        while done < count:
            if fruitless >= _FRUITLESS:
                kept.append(self._in_series(here, count - done))
                events = self._refusal(here, done, count)
                break
            lengths = self._lengths(count - done)
            window = self._window(here, lengths)
            fruitless = self._learn(window, len(lengths), fruitless)
            kept += [(slab.frames, slab.energies) for slab in window.slabs]
            done += sum(slab.n_frames for slab in window.slabs)
            last = window.slabs[-1]
            here = self._after(last.start, last.frames)
        self.report.wall_s += time.perf_counter() - began
        return self._segment(state, kept, events)

    def restart_state(self) -> dict[str, Tensor]:
        """The length of the next window and the report so far.

        Both propagators depend on nothing but the state.
        """
        report = named_under("report", self.report.to_tensors())
        return {"window": torch.tensor(self._size)} | report

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave; a record of an earlier version has no report.

        Raises:
            ValueError: if the record is not of parareal with so many slabs.
        """
        size = int(saved["window"]) if "window" in saved else 0
        if not 1 <= size <= self.n_slabs:
            raise ValueError(
                f"the restart record has a window of {size} slabs; 1 to {self.n_slabs} are possible"
            )
        self._size = size
        self.report = PararealReport.from_tensors(taken_from("report", saved))

    def _warm_up(self, state: State) -> None:
        """Let the coarse propagator compile, where it does, before slabs are timed."""
        began = time.perf_counter()
        with suppress(ValueError):
            self.coarse.advance(state, self.frames_per_slab)
        self.report.start_s += time.perf_counter() - began
        self._cold = False

    def _lengths(self, n_frames: int) -> list[int]:
        """Frames of each slab of the next window."""
        whole, rest = divmod(n_frames, self.frames_per_slab)
        lengths = [self.frames_per_slab] * whole + ([rest] if rest else [])
        return lengths[: self._size]

    def _window(self, start: State, lengths: list[int]) -> SlabWindow:
        """Iterate one window until its slabs are settled, or it is cut to those that are."""
        window = self._guess(start, lengths)
        settled = 0
        while settled < len(window.slabs):
            self._solve(window)
            self._correct(window)
            settled = window.settled(self.tolerance_A)
            if settled < len(window.slabs):
                window.cut_if_hopeless(settled, self.tolerance_A)
        self.report.add(window, len(lengths))
        return window

    def _guess(self, start: State, lengths: list[int]) -> SlabWindow:
        """Lead the coarse propagator through the slabs, as far as it goes."""
        window = SlabWindow()
        here = start
        for n, length in enumerate(lengths):
            made = self._coarse(window, here, length)
            if made is None:
                window.reason = f"the coarse propagator failed in slab {n + 1}"
                if n > 0:
                    break
                # The trusted propagator can do without a guess for the first slab.
                made = SlabFrames.still(here, length)
            window.slabs.append(Slab(here, length, made, made))
            here = self._after(here, made)
            if n == 0 and window.reason:
                break
        return window

    def _solve(self, window: SlabWindow) -> None:
        """Run the trusted propagator from every start that is new."""
        first = window.rounds
        window.rounds += 1
        new = [n for n, slab in enumerate(window.slabs) if slab.stale]
        solved = self._fine_slabs.solve(
            [window.slabs[n].start for n in new],
            [window.slabs[n].n_frames for n in new],
            first_alone=first == 0,
        )
        window.fine_solves += len(new)
        for n, found in zip(new, solved, strict=True):
            if isinstance(found, SolvedSlab):
                whole = window.slabs[n].n_frames == self.frames_per_slab
                self.report.note(found, whole=whole, remote=self._fine_slabs.remote)
                window.slabs[n].fine = found
                window.slabs[n].stale = False
            elif n <= first:  # this start is on the trusted path itself
                raise ValueError(
                    "the trusted propagator failed in the slab from "
                    f"{window.slabs[n].start.time_fs:g} fs on: {found}"
                ) from found
            else:
                window.cut(n, f"the trusted propagator failed in slab {n + 1}: {found}")
                break

    def _correct(self, window: SlabWindow) -> None:
        """Lead the coarse propagator along the corrected path and apply the sum."""
        here = window.slabs[0].start
        for n, slab in enumerate(window.slabs):
            coarse: SlabFrames | None = slab.coarse
            if not _same_bits(here, slab.start):
                coarse = self._coarse(window, here, slab.n_frames)
                slab.stale = True
            if coarse is None:
                window.cut(n, f"the coarse propagator failed in slab {n + 1}")
                break
            frames = slab.corrected(coarse)
            change = float((frames.x - slab.frames.x).abs().max())
            if n >= window.rounds and not change <= _LOST_A:
                window.cut(n, f"slab {n + 1} changed by {change:.2g} Å in round {window.rounds}")
                break
            slab.start, slab.coarse, slab.frames = here, coarse, frames
            slab.change_before_A, slab.change_A = slab.change_A, change
            here = self._after(here, frames)
        window.note_worst()

    def _learn(self, window: SlabWindow, n_tried: int, fruitless: int) -> int:
        """Choose the length of the next window; count those in a row that gained nothing."""
        n = len(window.slabs)
        if n < n_tried:
            self._size = min(self.n_slabs, max(_SHORTEST, n))
        elif n == self._size and 3 * window.rounds <= n:
            self._size = min(self.n_slabs, 2 * self._size)
        if n_tried < _SHORTEST:  # too few were left to tell
            return fruitless
        return fruitless + 1 if n <= window.rounds else 0

    def _coarse(self, window: SlabWindow, start: State, n_frames: int) -> SlabFrames | None:
        """Ask the coarse propagator; None where it gives up or its frames are not finite."""
        cpu = time.process_time()
        try:
            made = self.coarse.advance(start, n_frames)
        except ValueError:
            return None
        finally:
            window.coarse_solves += 1
            spent = time.process_time() - cpu
            self.report.note_coarse(spent, whole=n_frames == self.frames_per_slab)
        finite = torch.isfinite(made.positions).all() & torch.isfinite(made.velocities).all()
        return SlabFrames(made.positions, made.velocities) if bool(finite) else None

    def _after(self, start: State, frames: SlabFrames) -> State:
        """The state at the end of a slab."""
        return start.with_(
            positions=frames.x[:, -1],
            velocities=frames.v[:, -1],
            time_fs=start.time_fs + frames.x.shape[1] * self.frame_interval_fs,
        )

    def _in_series(self, start: State, n_frames: int) -> tuple[SlabFrames, Tensor]:
        """Run the rest by the trusted propagator alone."""
        cpu = time.process_time()
        made = self.fine.advance(start, n_frames)
        n_slabs = -(-n_frames // self.frames_per_slab)
        self.report.refused(n_slabs, time.process_time() - cpu)
        return SlabFrames(made.positions, made.velocities), made.potential_energies

    def _refusal(self, here: State, done: int, count: int) -> tuple[Event, ...]:
        """Say why the rest is run in series: an event for each replica, and one warning."""
        reason = self.report.windows[-1].reason or "as many rounds as slabs were needed"
        said = f"the coarse propagator is too poor for parareal here: {reason}"
        if self.report.refusals == 1:
            warnings.warn(
                f"{said}; the rest of the segment is run by the trusted propagator alone. Shorter "
                "slabs or a better coarse model may help",
                RuntimeWarning,
                stacklevel=3,
            )
        time_fs = here.time_fs + self.frame_interval_fs
        return tuple(
            Event(time_fs, r, "parareal", said, done, count) for r in range(here.n_replicas)
        )

    def _segment(
        self, state: State, kept: list[tuple[SlabFrames, Tensor]], events: tuple[Event, ...]
    ) -> Segment:
        """Join slabs, on the same grid of times as the trusted propagator's."""
        x = torch.cat([frames.x for frames, _ in kept], 1)
        count = x.shape[1]
        after = torch.arange(1, count + 1, dtype=torch.float64)
        return Segment(
            state.molecule,
            state.time_fs + after * self.frame_interval_fs,
            x,
            torch.cat([frames.v for frames, _ in kept], 1),
            torch.full((state.n_replicas, count), int(MadeBy.INTEGRATOR), dtype=torch.int8),
            torch.cat([energies for _, energies in kept], 1),
            state.cell,
            events,
        )


def _check_pair(coarse: Propagator, fine: Propagator) -> None:
    """Refuse propagators that do not fit together or are not deterministic."""
    if not math.isclose(coarse.frame_interval_fs, fine.frame_interval_fs, rel_tol=1e-9):
        raise ValueError(
            f"the coarse propagator makes a frame every {coarse.frame_interval_fs} fs and the "
            f"trusted one every {fine.frame_interval_fs} fs; give both the same frame interval"
        )
    for what, propagator in (("coarse", coarse), ("trusted", fine)):
        if has_bath(propagator) or draws_noise(propagator):
            raise ValueError(
                f"the {what} propagator ({type(propagator).__name__}) draws random numbers, so "
                "running a slab again gives another path; put the bath around Parareal instead: "
                "Thermostatted(Parareal(...), ...)"
            )


def _same_bits(a: State, b: State) -> bool:
    return torch.equal(a.positions, b.positions) and torch.equal(a.velocities, b.velocities)
