"""The judge that asks a potential: the total energy must not change over a segment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from egno_md.propagators.by_replicas import by_replicas
from egno_md.propagators.energy_frames import EnergyFrames, Watchfulness
from egno_md.propagators.guarded import finite_frames, leading
from egno_md.roles import Potential, Verdict, refuse_no_potential
from egno_md.segment import Segment
from egno_md.state import State, kinetic_energy

#: What the judge remembers, in a restart record.
_MEMORY = ("positions", "energies", "times_fs", "cells")

#: Times closer than this are the same, fs.
_SAME_TIME_FS = 1e-6


_Memory = tuple[Tensor, Tensor, Tensor, Tensor]


def _nothing_known() -> _Memory:
    """An empty memory: positions, energies, times, cells."""
    empty = torch.zeros(0, dtype=torch.float64)
    no_x, no_cell = (torch.zeros((0, n, 3), dtype=torch.float64) for n in (1, 3))
    return no_x, empty, empty.clone(), no_cell


def _cells(cell: Tensor | None, n_replicas: int) -> Tensor:
    """Cells `(n_replicas, 3, 3)` float64, Å; zeros without one."""
    if cell is None:
        return torch.zeros((n_replicas, 3, 3), dtype=torch.float64)
    return cell.to("cpu", torch.float64)


def _keys(positions: Tensor, cells: Tensor) -> Iterator[bytes]:
    """The bits of each replica's positions and cell."""
    for x, cell in zip(positions, cells, strict=True):
        yield x.cpu().numpy().tobytes() + cell.numpy().tobytes()


class EnergyJudge:
    """Accepts frames whose total energy by a potential is that of the start, within a limit.

    Only the last frame is evaluated as long as it passes, unless every frame is asked for: a bad
    segment may come back to its energy by chance, see `Watchfulness`. For a replica that fails all
    its frames are, in one batch, and the leading good ones are kept. The energy at the end of a
    segment is remembered for the next that starts from the same positions in the same cell. Kicks
    of a bath between segments are not seen. A potential that refuses a geometry rejects it.
    """

    name = "energy error"

    def __init__(
        self, potential: Potential, limit_eV: float, *, frames: EnergyFrames = "last"
    ) -> None:
        """Set the limit.

        Args:
            potential: the one to trust.
            limit_eV: largest change of the total energy over a segment, either way.
            frames: "last"; "all"; or "auto": all at first and while many are rejected, else the
                last.

        Raises:
            ValueError: if the potential is none, the limit is not positive, or `frames` is
                something else.
        """
        refuse_no_potential("potential", potential)
        if not 0.0 < limit_eV < float("inf"):
            raise ValueError(f"limit_eV is {limit_eV}; it must be a positive number of eV")
        self.potential = potential
        self.limit_eV = limit_eV
        self._largest_eV = math.nan
        self._latest_eV = torch.zeros((0, 0), dtype=torch.float64)
        self.watchfulness = Watchfulness(frames)
        self._known = _nothing_known()

    @property
    def largest_eV(self) -> float:
        """Largest change in a frame that was looked at and kept, eV; NaN before any."""
        seen = self._latest_eV[torch.isfinite(self._latest_eV)].tolist()
        # A maximum with NaN is whatever comes first.
        known = [] if math.isnan(self._largest_eV) else [self._largest_eV]
        return max([*known, *seen], default=math.nan)

    def after_all(self, n_kept: Tensor) -> None:
        """Learn how many frames of the latest segment are kept, other judges having been asked.

        Args:
            n_kept: `(n_replicas,)` int64.
        """
        cut = torch.arange(self._latest_eV.shape[1]) >= n_kept[:, None]
        self._latest_eV = self._latest_eV.masked_fill(cut, math.nan)

    def judge(self, start: State, segment: Segment) -> Verdict:
        """Compare the total energy at the end, and where needed before, with the start's."""
        n, frames = segment.n_replicas, segment.n_frames
        potential = torch.full((n, frames), float("nan"), dtype=torch.float64)
        problems: dict[tuple[int, int], str] = {}
        before, start_problems = self._start_energy(start)
        finite = finite_frames(segment).cpu()
        total = kinetic_energy(segment.molecule, segment.velocities).cpu()

        def look(rows: Tensor, columns: Tensor) -> None:
            found, why = self._energies(segment, rows, columns)
            potential[rows, columns] = found
            problems.update(why)

        whole = finite[:, -1] & torch.isfinite(before)
        rows = whole.nonzero()[:, 0]
        look(rows, torch.full_like(rows, frames - 1))
        change = potential + total - before[:, None]
        passed = (change[:, -1].abs() <= self.limit_eV) & (not self.watchfulness.every_frame)
        suspects = finite & (~passed & torch.isfinite(before))[:, None]
        suspects[:, -1] = False
        look(*suspects.nonzero().T)
        change = potential + total - before[:, None]
        accepted = (change.abs() <= self.limit_eV) | passed[:, None]
        n_accepted = leading(accepted)
        reasons = tuple(
            None
            if k == frames
            else start_problems.get(r)
            or problems.get((r, k))
            or self._reason(start, segment, k, float(change[r, k]), bool(finite[r, k]))
            for r, k in enumerate(n_accepted.tolist())
        )
        self.watchfulness.note(n_accepted == frames)
        self._remember(start, segment, potential[:, -1])
        self._largest_eV = self.largest_eV
        self._latest_eV = change.abs()
        self.after_all(n_accepted)
        return Verdict(n_accepted, reasons, potential)

    def restart_state(self) -> dict[str, Tensor]:
        """The remembered energies, where and when they hold, the largest error kept, verdicts."""
        saved = {"largest_eV": torch.tensor(self.largest_eV, dtype=torch.float64)}
        saved |= self.watchfulness.restart_state()
        return saved | dict(zip(_MEMORY, self._known, strict=True))

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave.

        Raises:
            ValueError: if the record is not of such a judge.
        """
        if "largest_eV" not in saved:
            raise ValueError("the restart record has no largest error of an energy judge")
        self.watchfulness.restore(saved)
        self._largest_eV = float(saved["largest_eV"])
        self._latest_eV = torch.zeros((0, 0), dtype=torch.float64)
        known = all(name in saved for name in _MEMORY)
        x, e, t, cell = (saved[name] for name in _MEMORY) if known else _nothing_known()
        self._known = (x, e, t, cell)

    def _reason(
        self, start: State, segment: Segment, frame: int, change_eV: float, finite: bool
    ) -> str:
        if not finite:
            return "positions or velocities are not finite, so there is no total energy"
        span_fs = float(segment.times_fs[frame]) - start.time_fs
        return (
            f"total energy changes by {change_eV:.3g} eV in {span_fs:g} fs; "
            f"allowed {self.limit_eV:g} eV"
        )

    def _start_energy(self, start: State) -> tuple[Tensor, dict[int, str]]:
        """Total energy at the start `(n_replicas,)` eV, and why where it is NaN."""
        n = start.n_replicas
        energy = torch.full((n,), float("nan"), dtype=torch.float64)
        for r, k in self._found(start).items():
            energy[r] = self._known[1][k]
        missing = energy.isnan().nonzero()[:, 0]
        here = Segment(
            start.molecule,
            torch.tensor([start.time_fs]),
            start.positions[:, None],
            start.velocities[:, None],
            torch.zeros((n, 1), dtype=torch.int8),
            cell=start.cell,
        )
        found, why = self._energies(here, missing, torch.zeros_like(missing))
        energy[missing] = found
        problems = {r: f"at the start of the segment: {text}" for (r, _), text in why.items()}
        return energy + kinetic_energy(start.molecule, start.velocities).cpu(), problems

    def _remember(self, start: State, segment: Segment, energies: Tensor) -> None:
        """Keep the energies at the end of a segment instead of those at its start.

        Those of replicas that a guard takes on in another turn stay as long as they may be asked.
        """
        times = segment.times_fs[-1:].to("cpu", torch.float64).expand(segment.n_replicas)
        x = segment.positions[:, -1].clone()
        cells = _cells(segment.cell, segment.n_replicas)
        new: _Memory = (x, energies.clone(), times.clone(), cells.clone())
        stay = self._known[2] > start.time_fs - _SAME_TIME_FS
        stay[list(self._found(start).values())] = False
        if bool(stay.any()) and self._known[0].shape[1:] == new[0].shape[1:]:
            x, e, t, c = (
                torch.cat([old[stay].to(fresh), fresh])
                for old, fresh in zip(self._known, new, strict=True)
            )
            new = (x, e, t, c)
        self._known = new

    def _found(self, start: State) -> dict[int, int]:
        """Rows of the memory with the positions and cell of a start, by replica."""
        known, cells = self._known[0].to(start.positions), self._known[3]
        here = _cells(start.cell, start.n_replicas)
        same = known.shape == start.positions.shape and torch.equal(known, start.positions)
        if same and torch.equal(cells, here):
            return {r: r for r in range(start.n_replicas)}
        place = {one: k for k, one in enumerate(_keys(known, cells))}
        starts = enumerate(_keys(start.positions, here))
        return {r: place[one] for r, one in starts if one in place}

    def _energies(
        self, segment: Segment, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, dict[tuple[int, int], str]]:
        """Potential energies of some frames in one batch, and why where they are NaN.

        Of a batch that the potential refuses, the frames to blame are found.
        """
        found = torch.full((len(rows),), float("nan"), dtype=torch.float64)
        problems: dict[tuple[int, int], str] = {}

        def energies(block: Tensor) -> Tensor:
            r, f = rows[block], columns[block]
            state = State(
                segment.molecule,
                segment.positions[r, f],
                torch.zeros_like(segment.positions[r, f]),
                float(segment.times_fs[f[0]]),
                None if segment.cell is None else segment.cell[r],
            )
            return self.potential.energies(state).detach().to("cpu", torch.float64)

        for block, done in by_replicas(len(rows), energies):
            if isinstance(done, ValueError):
                frame = int(rows[block[0]]), int(columns[block[0]])
                problems[frame] = f"the guard potential refuses: {done}"
                continue
            found[block] = done
            for k in block[~torch.isfinite(found[block])].tolist():
                problems[int(rows[k]), int(columns[k])] = (
                    f"the guard potential gives an energy of {float(found[k])} eV"
                )
                found[k] = float("nan")
        return found, problems
