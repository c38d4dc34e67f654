"""Whose frames a propagator gives: those of a loop of its own, or of the one it wraps."""

from __future__ import annotations

from egno_md.propagators.integrator import KickDriftKick
from egno_md.roles import Propagator


class OnFrameGrid:
    """What a propagator with a loop says of its frames."""

    _loop: KickDriftKick

    @property
    def frame_interval_fs(self) -> float:
        """Time between frames."""
        return self._loop.frame_interval_fs

    @property
    def n_frames(self) -> int:
        """Frames of one full segment."""
        return self._loop.n_frames


class SameFrames:
    """What a propagator says that gives the frames of another one, changed or not."""

    propagator: Propagator

    @property
    def frame_interval_fs(self) -> float:
        """Time between frames."""
        return self.propagator.frame_interval_fs

    @property
    def n_frames(self) -> int:
        """Frames of one full segment."""
        return self.propagator.n_frames
