"""What an OpenMM system does between steps, done once per segment.

Thermostats, barostats and removers of the motion of the centre of mass are forces in OpenMM that
act when an integrator says so. An integrator that does nothing else says so here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import openmm

from egno_md.units import PS_PER_FS


class Baths:
    """Thermostats, barostats and motion removers of a system, let loose once per segment.

    - An Andersen thermostat acts for the span of the segment.
    - A barostat tries one move if one of its steps, counted in frames, falls due. OpenMM does
      not keep the size of its moves in checkpoints.
    - A remover of the centre of mass' motion likewise acts if it is due.
    """

    def __init__(self, system: openmm.System, frame_interval_fs: float) -> None:
        """Find the forces concerned.

        Args:
            system: kept; frequencies of its barostats are changed and set back.
            frame_interval_fs: time between frames.
        """
        self.idle = openmm.CustomIntegrator(frame_interval_fs * PS_PER_FS)
        self.idle.addUpdateContextState()
        self._frame_interval_ps = frame_interval_fs * PS_PER_FS
        self._barostats, self._removers = [], []
        self._has_andersen = False
        for force in system.getForces():
            if isinstance(force, openmm.CMMotionRemover):
                self._removers.append(force)
            elif isinstance(force, openmm.AndersenThermostat):
                self._has_andersen = True
            elif "Barostat" in type(force).__name__:
                self._barostats.append(force)

    def act(self, context: openmm.Context, step: int, n_frames: int) -> None:
        """Let them act; time and step count of the context are left as they were.

        Args:
            context: its integrator is compound and `idle` is the current one.
            step: frames made before this segment.
            n_frames: frames of this segment.
        """
        time, count = context.getTime(), context.getStepCount()
        frequencies = [b.getFrequency() for b in self._barostats]
        try:
            for barostat, every in zip(self._barostats, frequencies, strict=True):
                barostat.setFrequency(int(_due(step, n_frames, every)))
            removing = any(_due(step, n_frames, r.getFrequency()) for r in self._removers)
            # OpenMM removes the motion at step counts that its frequency divides, as it does 0.
            context.setStepCount(0 if removing else 1)
            self.idle.setStepSize(n_frames * self._frame_interval_ps)
            context.getIntegrator().step(1)
        finally:
            self.idle.setStepSize(self._frame_interval_ps)
            for barostat, every in zip(self._barostats, frequencies, strict=True):
                barostat.setFrequency(every)
            context.setTime(time)
            context.setStepCount(count)

    @contextmanager
    def silent(self, context: openmm.Context) -> Iterator[None]:
        """Keep thermostat and barostats of the system from acting, for a while.

        Args:
            context: of the system.
        """
        frequencies = [b.getFrequency() for b in self._barostats]
        name = openmm.AndersenThermostat.CollisionFrequency()
        collisions = context.getParameter(name) if self._has_andersen else 0.0
        try:
            for barostat in self._barostats:
                barostat.setFrequency(0)
            if self._has_andersen:
                context.setParameter(name, 0.0)
            yield
        finally:
            for barostat, every in zip(self._barostats, frequencies, strict=True):
                barostat.setFrequency(every)
            if self._has_andersen:
                context.setParameter(name, collisions)


def _due(step: int, n_frames: int, every: int) -> bool:
    """Whether a multiple of `every` is among the frames up to this one that a segment spans."""
    return every > 0 and step % every < n_frames
