"""Frames of a propagator that knows no constraints, put onto those of an OpenMM system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import openmm
import torch
from torch import Tensor

from egno_md.calculators.context_frames import ContextFrames
from egno_md.propagators.frame_grid import SameFrames
from egno_md.propagators.guarded import finite_frames
from egno_md.roles import Propagator
from egno_md.segment import Segment
from egno_md.state import State


class ConstrainedFrames(SameFrames):
    """Every frame of a propagator, moved onto a system's constraints.

    Energy that the propagator puts into constrained distances is lost at the end of every
    segment, so a network trained with flexible bonds cools what it simulates.
    """

    reversible = False
    volume_preserving = False

    def __init__(self, propagator: Propagator, frames: ContextFrames) -> None:
        """Wrap a propagator.

        Args:
            propagator: makes the frames.
            frames: of the context whose system has the constraints.
        """
        self.propagator = propagator
        self._frames = frames

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state`; frames that are not finite stay as they are.

        Args:
            state: one replica.
            n_frames: how many frames; a full segment when None.
        """
        segment = self.propagator.advance(state, n_frames)
        positions, velocities = segment.positions.clone(), segment.velocities.clone()
        good = finite_frames(segment)[0]
        for k in range(segment.n_frames):
            if not good[k]:
                break
            try:
                self._frames.put(positions[0, k], velocities[0, k])
                self._frames.project()
                frame = self._frames.read(float(segment.times_fs[k]))
            except (ValueError, openmm.OpenMMException):
                # Too far from the constraints to get back: a guard cuts what is not finite.
                positions[0, k:] = torch.nan
                break
            positions[0, k] = frame.positions[0].to(positions)
            velocities[0, k] = frame.velocities[0].to(velocities)
        return replace(segment, positions=positions, velocities=velocities)

    def restart_state(self) -> dict[str, Tensor]:
        """What the wrapped propagator needs."""
        return self.propagator.restart_state()

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        self.propagator.restore(saved)
