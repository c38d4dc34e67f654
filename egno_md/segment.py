"""Frames made in one go, with a note on each of who made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import torch
from torch import Tensor

from egno_md.state import Molecule, State


class MadeBy(IntEnum):
    """Who made a frame."""

    GIVEN = 0
    NETWORK = 1
    INTEGRATOR = 2


@dataclass(frozen=True, slots=True)
class Event:
    """Something a guard did, for the log and the report.

    Attributes:
        time_fs: time of the first frame concerned.
        replica: index of the replica.
        judge: name of the judge that spoke.
        reason: one sentence with the value found and the value allowed.
        n_accepted: frames of the segment that were kept.
        n_frames: frames the segment had.
    """

    time_fs: float
    replica: int
    judge: str
    reason: str
    n_accepted: int
    n_frames: int


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Frames that follow a state; the state itself is not one of them.

    Shapes are checked at birth; that the numbers are finite is for a judge to say, because a
    propagator may have to hand over a failed segment.

    Attributes:
        molecule: the fixed part.
        times_fs: `(n_frames,)` float64, strictly increasing.
        positions: `(n_replicas, n_frames, n_atoms, 3)`, Å.
        velocities: same shape, Å/fs.
        made_by: `(n_replicas, n_frames)` int8, values of `MadeBy`.
        potential_energies: `(n_replicas, n_frames)` float64, eV, NaN where not evaluated.
        cell: `(n_replicas, 3, 3)`, Å, constant over the segment, or None.
        events: what a guard did while this segment was made.
    """

    molecule: Molecule
    times_fs: Tensor
    positions: Tensor
    velocities: Tensor
    made_by: Tensor
    potential_energies: Tensor = field(default_factory=lambda: torch.zeros(0))
    cell: Tensor | None = None
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes; fill unknown energies with NaN.

        Raises:
            ValueError: naming the field that is wrong.
        """
        x = self.positions
        n, f = self.molecule.n_atoms, self.times_fs.shape[0]
        if x.ndim != 4 or tuple(x.shape[1:]) != (f, n, 3) or f < 1:
            raise ValueError(
                f"segment.positions must have shape (n_replicas, {f}, {n}, 3) with at least "
                f"one frame, got {tuple(x.shape)}"
            )
        if self.velocities.shape != x.shape:
            raise ValueError(
                f"segment.velocities must match positions {tuple(x.shape)}, "
                f"got {tuple(self.velocities.shape)}"
            )
        if f > 1 and not bool((self.times_fs[1:] > self.times_fs[:-1]).all()):
            raise ValueError("segment.times_fs must increase from frame to frame")
        grid = (x.shape[0], f)
        if tuple(self.made_by.shape) != grid:
            raise ValueError(
                f"segment.made_by must have shape {grid}, got {tuple(self.made_by.shape)}"
            )
        if self.potential_energies.numel() == 0:
            unknown = torch.full(grid, float("nan"), dtype=torch.float64)
            object.__setattr__(self, "potential_energies", unknown)
        elif tuple(self.potential_energies.shape) != grid:
            raise ValueError(
                f"segment.potential_energies must have shape {grid}, "
                f"got {tuple(self.potential_energies.shape)}"
            )

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.times_fs.shape[0])

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return int(self.positions.shape[0])

    @property
    def last(self) -> State:
        """The state at the last frame.

        Raises:
            ValueError: if that frame is not finite.
        """
        return self.frame(self.n_frames - 1)

    def frame(self, index: int) -> State:
        """Return one frame as a state.

        Args:
            index: frame number, 0 is the first.

        Raises:
            ValueError: if that frame is not finite.
        """
        return State(
            self.molecule,
            self.positions[:, index],
            self.velocities[:, index],
            float(self.times_fs[index]),
            self.cell,
        )

    def upto(self, n_frames: int) -> Segment:
        """Return the first `n_frames` frames."""
        return self.frames(slice(0, n_frames))

    def frames(self, which: slice) -> Segment:
        """Return some frames; the events stay."""
        return replace(
            self,
            times_fs=self.times_fs[which],
            positions=self.positions[:, which],
            velocities=self.velocities[:, which],
            made_by=self.made_by[:, which],
            potential_energies=self.potential_energies[:, which],
        )

    @staticmethod
    def join(parts: Sequence[Segment]) -> Segment:
        """Join segments that follow one another in time.

        Args:
            parts: at least one segment, of the same molecule and replicas.

        Raises:
            ValueError: if there is nothing to join or times do not increase.
        """
        if not parts:
            raise ValueError("no segments to join")
        if len(parts) == 1:
            return parts[0]
        return replace(
            parts[0],
            times_fs=torch.cat([p.times_fs for p in parts]),
            positions=torch.cat([p.positions for p in parts], 1),
            velocities=torch.cat([p.velocities for p in parts], 1),
            made_by=torch.cat([p.made_by for p in parts], 1),
            potential_energies=torch.cat([p.potential_energies for p in parts], 1),
            cell=parts[-1].cell,
            events=tuple(e for p in parts for e in p.events),
        )
