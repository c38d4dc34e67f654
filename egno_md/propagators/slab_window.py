"""Slabs of time that parareal iterates together, and when to go on with fewer of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from egno_md.propagators.fine_slabs import SolvedSlab
from egno_md.state import State

#: A slab whose change grows by more than this factor from one round to the next diverges.
_GROWTH = 2.0

#: Rounds before the rate of convergence is believed; it improves from round to round.
_ROUNDS_TO_SEE = 3


@dataclass(slots=True, eq=False)
class SlabFrames:
    """Frames of one slab.

    Attributes:
        x: positions `(n_replicas, n_frames, n_atoms, 3)`, Å.
        v: velocities, same shape, Å/fs.
    """

    x: Tensor
    v: Tensor

    @classmethod
    def still(cls, start: State, n_frames: int) -> SlabFrames:
        """Return frames that all are the start.

        Args:
            start: where nothing moves.
            n_frames: how many.
        """
        shape = (-1, n_frames, -1, -1)
        x, v = start.positions, start.velocities
        return cls(x[:, None].expand(shape), v[:, None].expand(shape))


@dataclass(slots=True, eq=False)
class Slab:
    """One slab: where it starts, and its frames by all there are.

    Attributes:
        start: the latest start.
        n_frames: its length.
        coarse: by the coarse propagator, from the latest start.
        frames: the latest iterate.
        fine: by the trusted propagator, or None before the first round.
        stale: whether `fine` is from an earlier start.
        change_A: largest change of a position in the latest round.
        change_before_A: in the round before.
    """

    start: State
    n_frames: int
    coarse: SlabFrames
    frames: SlabFrames
    fine: SolvedSlab | None = None
    stale: bool = True
    change_A: float = math.inf
    change_before_A: float = math.inf

    @property
    def energies(self) -> Tensor:
        """Potential energies of the trusted frames, `(n_replicas, n_frames)`, eV."""
        return self._solved.potential_energies

    @property
    def _solved(self) -> SolvedSlab:
        if self.fine is None:
            raise RuntimeError("a slab was used before the trusted propagator ran it")
        return self.fine

    def corrected(self, coarse: SlabFrames) -> SlabFrames:
        """Return F + (G_new - G_old); F itself, bit for bit, where the start is the same.

        Args:
            coarse: frames by the coarse propagator from the new start, G_new.
        """
        fine, old = self._solved, self.coarse
        if coarse is old:
            return SlabFrames(fine.positions, fine.velocities)
        return SlabFrames(fine.positions + (coarse.x - old.x), fine.velocities + (coarse.v - old.v))


@dataclass(slots=True, eq=False)
class SlabWindow:
    """Slabs that are iterated together.

    Attributes:
        slabs: in the order of time.
        rounds: of the trusted propagator so far.
        fine_solves: slabs that it ran.
        coarse_solves: slabs that the coarse one ran.
        worst_A: largest change of a position in each round, in slabs that are not exact yet.
        reason: why slabs were cut off; empty while none were.
    """

    slabs: list[Slab] = field(default_factory=list)
    rounds: int = 0
    fine_solves: int = 0
    coarse_solves: int = 0
    worst_A: list[float] = field(default_factory=list)
    reason: str = ""

    def cut(self, size: int, reason: str) -> None:
        """Keep the first slabs only.

        Args:
            size: how many.
            reason: why.
        """
        del self.slabs[size:]
        self.reason = reason

    def settled(self, tolerance_A: float) -> int:
        """Count the leading slabs that are exact or as close as asked.

        Args:
            tolerance_A: how close.
        """
        for n, slab in enumerate(self.slabs):
            if n >= self.rounds and slab.change_A > tolerance_A:
                return n
        return len(self.slabs)

    def note_worst(self) -> None:
        """Remember the largest change of the round."""
        unsettled = (slab.change_A for slab in self.slabs[self.rounds :])
        self.worst_A.append(max(unsettled, default=0.0))

    def cut_if_hopeless(self, settled: int, tolerance_A: float) -> None:
        """Cut off what diverges, or half of what would take as many rounds as slabs.

        Args:
            settled: leading slabs that are done.
            tolerance_A: how close the others are to come.
        """
        slabs, k = self.slabs, self.rounds
        for n in range(max(settled, k), len(slabs)):
            before, now = slabs[n].change_before_A, slabs[n].change_A
            if now > _GROWTH * before:
                said = f"changes of slab {n + 1} grew from {before:.2g} to {now:.2g} Å"
                self.cut(n, f"{said} in round {k}")
                return
        if k < _ROUNDS_TO_SEE:
            return
        before, now = self.worst_A[-2:]
        rate = now / before if before > 0 else 1.0
        left = math.log(tolerance_A / now) / math.log(rate) if rate < 1 else math.inf
        if k + left >= len(slabs):
            self.cut(
                settled + (len(slabs) - settled) // 2,
                f"changes of {now:.2g} Å after {before:.2g} Å in round {k} would take as many "
                "rounds as there are slabs",
            )
