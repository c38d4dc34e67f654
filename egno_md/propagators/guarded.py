"""A fast propagator that is checked, with a safe one behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from egno_md.propagators.own_baths import refuse_guard
from egno_md.propagators.proposal_horizon import ProposalHorizon
from egno_md.propagators.restart import named_under, taken_from
from egno_md.roles import Judge, Propagator, Verdict, refuse_no_propagator
from egno_md.segment import Event, MadeBy, Segment
from egno_md.state import State

#: Speaks when frames that are not finite passed every judge.
_LAST_CHECK = "finite values"


def finite_frames(segment: Segment) -> Tensor:
    """Whether all positions and velocities are finite, `(n_replicas, n_frames)` bool."""
    both = torch.isfinite(segment.positions) & torch.isfinite(segment.velocities)
    return both.flatten(2).all(-1)


def leading(accepted: Tensor) -> Tensor:
    """Count the frames before the first that is not accepted.

    Args:
        accepted: `(n_replicas, n_frames)` bool.

    Returns:
        `(n_replicas,)` int64.
    """
    return accepted.to(torch.int64).cumprod(1).sum(1)


@dataclass(frozen=True, slots=True)
class GuardStatistics:
    """What a guard has done so far.

    Attributes:
        segments: proposals judged, counted per replica.
        frames_by: frames kept, by the name of their maker.
        rejections_by: proposals cut, by the name of the judge that spoke.
        frames_lost_by: frames that these cuts took away.
        shortest_frames: the shortest proposals that rejections led to.
    """

    segments: int
    frames_by: dict[str, int]
    rejections_by: dict[str, int]
    frames_lost_by: dict[str, int]
    shortest_frames: int = 0


class GuardedPropagator:
    """Takes segments from a fast propagator and keeps the leading frames that every judge accepts.

    A proposal is one segment of the fast propagator, or several in a row, held back until the
    judges have seen all of it. A replica that is not accepted to the end goes on from its last
    accepted frame with the safe propagator, at the same frame times, to the end of the fast
    segment in which it was cut; from there the fast propagator proposes again. Frames that are
    not finite are never kept, whatever the judges say. Judges are asked in order and each sees
    no more frames than some replica has left, so cheap ones belong first.
    The whole is neither reversible nor volume preserving once it may be cut.
    """

    reversible = False
    volume_preserving = False
    has_bath = False

    def __init__(
        self,
        fast: Propagator,
        safe: Propagator,
        judges: Sequence[Judge],
        *,
        segments_per_proposal: int = 1,
        recover_after: int | None = None,
    ) -> None:
        """Put the three together.

        Args:
            fast: makes the proposals; without a bath, which goes around the guard.
            safe: makes the rest; its frame interval must be the same.
            judges: asked in this order; names must differ.
            segments_per_proposal: segments of the fast propagator that are judged together.
            recover_after: a rejection halves a replica's next proposals, and so many accepted
                ones in a row double them again; None: all are full.

        Raises:
            ValueError: if `fast` has a bath, the frame intervals differ, two judges have one
                name, or a number is not positive.
        """
        refuse_guard(fast)
        refuse_no_propagator("safe", safe)
        if not math.isclose(fast.frame_interval_fs, safe.frame_interval_fs, rel_tol=1e-9):
            raise ValueError(
                f"the fast propagator makes a frame every {fast.frame_interval_fs} fs and the safe "
                f"one every {safe.frame_interval_fs} fs; give both the same frame interval"
            )
        names = [judge.name for judge in judges] + [_LAST_CHECK]
        twice = [name for i, name in enumerate(names[:-1]) if name in names[:i]]
        if twice:
            raise ValueError(f"two judges are named {twice[0]!r}; give each its own name")
        if segments_per_proposal < 1:
            raise ValueError(
                f"segments_per_proposal is {segments_per_proposal}; it must be at least 1"
            )
        self.fast = fast
        self.safe = safe
        self.judges = tuple(judges)
        self.horizon = ProposalHorizon(fast.n_frames * segments_per_proposal, recover_after)
        self._speakers = tuple(dict.fromkeys(names))
        self._segments = 0
        self._frames = torch.zeros(len(MadeBy), dtype=torch.int64)
        self._rejections = torch.zeros(len(self._speakers), dtype=torch.int64)
        self._lost = torch.zeros(len(self._speakers), dtype=torch.int64)

    @property
    def frame_interval_fs(self) -> float:
        """Time between frames."""
        return self.fast.frame_interval_fs

    @property
    def n_frames(self) -> int:
        """Frames of one full proposal."""
        return self.horizon.n_frames

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state`, with an event for every proposal cut.

        Args:
            state: where to start.
            n_frames: how many frames; a full proposal when None.

        Raises:
            ValueError: if the safe propagator fails, naming time and replicas, or if a judge
                answers with something that does not fit the segment.
        """
        count = self.n_frames if n_frames is None else n_frames
        done = torch.zeros(state.n_replicas, dtype=torch.int64)
        whole: Segment | None = None
        events: list[Event] = []
        while whole is None or int(done.min()) < count:
            # The replicas furthest behind come first, those with the longest proposals first.
            at = int(done.min())
            lengths = self.horizon.frames(state.n_replicas).clamp(max=count - at)
            lengths[done != at] = 0
            which = (lengths == lengths.max()).nonzero()[:, 0]
            start = _state_after(state, whole, which, at)
            piece, ends = self._piece(start, int(lengths.max()), which)
            events += piece.events
            if whole is None:
                if len(which) == state.n_replicas and bool((ends == count).all()):
                    return piece
                whole = _unmade(state, piece, count)
            for r, row in enumerate(which.tolist()):
                _put(whole, row, at, piece.frames(slice(0, int(ends[r]))), r)
            done[which] += ends
        return replace(whole, events=tuple(events))

    def _piece(self, start: State, length: int, which: Tensor) -> tuple[Segment, Tensor]:
        """One proposal for some replicas, judged and repaired, and how much of it each keeps.

        Args:
            start: of these replicas.
            length: frames to propose.
            which: `(n,)` int64, their numbers in the run.
        """
        proposal = self.fast.advance(start, length)
        kept, speakers, reasons, energies = self._judged(start, proposal)
        proposal = replace(proposal, potential_energies=energies)
        events = tuple(
            Event(
                time_fs=float(proposal.times_fs[kept[r]]),
                replica=int(which[r]),
                judge=speakers[r],
                reason=reasons[r],
                n_accepted=int(kept[r]),
                n_frames=length,
            )
            for r in range(start.n_replicas)
            if kept[r] < length
        )
        n = self.fast.n_frames
        ends = torch.where(kept < length, ((kept // n + 1) * n).clamp(max=length), length)
        segment = self._continued(start, proposal, kept, ends, which) if events else proposal
        self.horizon.note(which, kept == length)
        self._note(segment, ends, events)
        return replace(segment, events=(*proposal.events, *events)), ends

    def statistics(self) -> GuardStatistics:
        """Counts of frames by maker and of cuts by judge, since the start of the run."""
        return GuardStatistics(
            segments=self._segments,
            frames_by={maker.name: int(self._frames[maker]) for maker in MadeBy},
            rejections_by=dict(zip(self._speakers, self._rejections.tolist(), strict=True)),
            frames_lost_by=dict(zip(self._speakers, self._lost.tolist(), strict=True)),
            shortest_frames=self.horizon.shortest,
        )

    def restart_state(self) -> dict[str, Tensor]:
        """What the fast and the safe propagator and the judges need, and the counts."""
        saved = {
            "segments": torch.tensor(self._segments),
            "frames": self._frames.clone(),
            "rejections": self._rejections.clone(),
            "lost": self._lost.clone(),
        }
        saved |= named_under("horizon", self.horizon.restart_state())
        saved |= named_under("fast", self.fast.restart_state())
        saved |= named_under("safe", self.safe.restart_state())
        for k, judge in enumerate(self.judges):
            saved |= named_under(f"judge{k}", judge.restart_state())
        return saved

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave.

        Raises:
            ValueError: if the record is of a guard with other judges.
        """
        expected = {
            "segments": (),
            "frames": self._frames.shape,
            "rejections": self._rejections.shape,
            "lost": self._lost.shape,
        }
        for key, shape in expected.items():
            if key not in saved or saved[key].shape != shape:
                given = tuple(saved[key].shape) if key in saved else "missing"
                raise ValueError(
                    f"the restart record was not made by a guard with {len(self.judges)} judges: "
                    f"its {key} are {given}, {tuple(shape)} is needed"
                )
        self.horizon.restore(taken_from("horizon", saved))
        self._segments = int(saved["segments"])
        self._frames = saved["frames"].clone()
        self._rejections = saved["rejections"].clone()
        self._lost = saved["lost"].clone()
        self.fast.restore(taken_from("fast", saved))
        self.safe.restore(taken_from("safe", saved))
        for k, judge in enumerate(self.judges):
            judge.restore(taken_from(f"judge{k}", saved))

    def _judged(
        self, state: State, proposal: Segment
    ) -> tuple[Tensor, list[str], list[str], Tensor]:
        """Ask the judges: frames kept, who cut, why, and the energies they found."""
        n, count = state.n_replicas, proposal.n_frames
        kept = torch.full((n,), count, dtype=torch.int64)
        speakers, reasons = [""] * n, [""] * n
        energies = proposal.potential_energies.clone()

        def cut(name: str, verdict: Verdict) -> None:
            for r in (verdict.n_accepted < kept).nonzero()[:, 0].tolist():
                kept[r] = verdict.n_accepted[r]
                speakers[r], reasons[r] = name, verdict.reasons[r] or "no reason given"

        asked: list[Judge] = []
        for judge in self.judges:
            most = int(kept.max())
            if most == 0:
                break
            asked.append(judge)
            verdict = judge.judge(state, proposal.upto(most))
            self._check(judge, verdict, n, most)
            accepted = verdict.n_accepted.to("cpu", torch.int64)
            # A judge that accepted all it saw says nothing of the frames it was not shown.
            accepted = torch.where(accepted == most, count, accepted)
            cut(judge.name, replace(verdict, n_accepted=accepted))
            if verdict.potential_energies is not None:
                found = verdict.potential_energies.to(energies)
                energies[:, :most] = torch.where(found.isnan(), energies[:, :most], found)
        finite = leading(finite_frames(proposal)).cpu()
        why = ("positions or velocities are not finite",) * n
        cut(_LAST_CHECK, Verdict(finite, why))
        for judge in asked:
            if callable(after_all := getattr(judge, "after_all", None)):
                after_all(kept)
        return kept, speakers, reasons, energies

    def _check(self, judge: Judge, verdict: Verdict, n_replicas: int, n_frames: int) -> None:
        """Refuse a verdict that does not fit."""
        accepted = verdict.n_accepted
        if tuple(accepted.shape) != (n_replicas,) or len(verdict.reasons) != n_replicas:
            raise ValueError(
                f"judge {judge.name!r} gave {tuple(accepted.shape)} counts and "
                f"{len(verdict.reasons)} reasons for {n_replicas} replicas"
            )
        if bool(((accepted < 0) | (accepted > n_frames)).any()):
            raise ValueError(
                f"judge {judge.name!r} accepted {accepted.tolist()} frames of {n_frames}"
            )

    def _continued(
        self, start: State, proposal: Segment, kept: Tensor, ends: Tensor, which: Tensor
    ) -> Segment:
        """Replace what follows the kept frames by the safe propagator's frames, to the ends."""
        new = replace(
            proposal,
            positions=proposal.positions.clone(),
            velocities=proposal.velocities.clone(),
            made_by=proposal.made_by.clone(),
            potential_energies=proposal.potential_energies.clone(),
        )
        # A replica joins those that are under way at its first frame, so that batches are large.
        x, v = start.positions.clone(), start.velocities.clone()
        joins = sorted({*kept.tolist(), *ends.tolist()})
        for k, end in pairwise(joins):
            joining = (kept == k).nonzero()[:, 0]
            if len(joining):
                here = _state_after(start, proposal, joining, k)
                x[joining], v[joining] = here.positions, here.velocities
            rows = ((kept <= k) & (ends >= end)).nonzero()[:, 0]
            if not len(rows):
                continue
            time_fs = start.time_fs if k == 0 else float(proposal.times_fs[k - 1])
            state = start.replica(rows).with_(
                positions=x[rows], velocities=v[rows], time_fs=time_fs
            )
            rest = self._safe_frames(state, end - k, which[rows])
            x[rows], v[rows] = rest.positions[:, -1].to(x), rest.velocities[:, -1].to(v)
            new.positions[rows, k:end] = rest.positions.to(new.positions)
            new.velocities[rows, k:end] = rest.velocities.to(new.velocities)
            new.made_by[rows, k:end] = rest.made_by.to(new.made_by)
            new.potential_energies[rows, k:end] = rest.potential_energies.to(new.potential_energies)
        return new

    def _safe_frames(self, start: State, n_frames: int, which: Tensor) -> Segment:
        """Ask the safe propagator, and say whose fault it is when it gives up."""
        replicas = ", ".join(str(int(r)) for r in which)
        try:
            rest = self.safe.advance(start, n_frames)
        except ValueError as error:
            raise ValueError(
                f"the safe propagator failed too, for replica(s) {replicas} of the run "
                f"({start.n_replicas} together) from {start.time_fs:g} fs on: {error}"
            ) from error
        bad = (leading(finite_frames(rest)) < n_frames).nonzero()
        if len(bad):
            raise ValueError(
                f"the safe propagator gave frames that are not finite for replica "
                f"{int(which[bad[0, 0]])} after {start.time_fs:g} fs"
            )
        return rest

    def _note(self, segment: Segment, ends: Tensor, events: Sequence[Event]) -> None:
        """Count makers and cuts."""
        self._segments += segment.n_replicas
        there = torch.arange(segment.n_frames) < ends[:, None]
        made_by = segment.made_by.to("cpu", torch.int64)[there]
        self._frames += torch.bincount(made_by, minlength=len(MadeBy))
        for event in events:
            k = self._speakers.index(event.judge)
            self._rejections[k] += 1
            self._lost[k] += event.n_frames - event.n_accepted


def _state_after(start: State, segment: Segment | None, which: Tensor, n_frames: int) -> State:
    """Some replicas after so many frames of a segment, in the start's own number type."""
    here = start.replica(which)
    if segment is None or n_frames == 0:
        return here
    return here.with_(
        positions=segment.positions[which, n_frames - 1].to(start.positions),
        velocities=segment.velocities[which, n_frames - 1].to(start.velocities),
        time_fs=float(segment.times_fs[n_frames - 1]),
    )


def _unmade(state: State, piece: Segment, count: int) -> Segment:
    """A segment of so many frames, to be filled with pieces like the first."""
    shape = (state.n_replicas, count)
    interval_fs = float(piece.times_fs[0]) - state.time_fs
    times_fs = state.time_fs + interval_fs * torch.arange(1, count + 1, dtype=torch.float64)
    return Segment(
        piece.molecule,
        times_fs,
        piece.positions.new_zeros((*shape, *piece.positions.shape[2:])),
        piece.velocities.new_zeros((*shape, *piece.velocities.shape[2:])),
        piece.made_by.new_zeros(shape),
        torch.full(shape, math.nan, dtype=torch.float64),
        state.cell,
    )


def _put(whole: Segment, row: int, at: int, piece: Segment, r: int) -> None:
    """Copy replica r of a piece to its place."""
    there = slice(at, at + piece.n_frames)
    whole.positions[row, there] = piece.positions[r]
    whole.velocities[row, there] = piece.velocities[r]
    whole.made_by[row, there] = piece.made_by[r]
    whole.potential_energies[row, there] = piece.potential_energies[r].to(torch.float64)
