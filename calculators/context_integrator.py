"""An OpenMM integrator as a propagator, in a context that holds other integrators too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import openmm
import torch
from torch import Tensor

from egno_md.calculators.context_frames import CONSTRAINT_TOLERANCE, Array, ContextFrames
from egno_md.calculators.openmm_baths import Baths
from egno_md.segment import MadeBy, Segment
from egno_md.state import State
from egno_md.units import PS_PER_FS

#: These keep velocities of half a step before the positions.
_HALF_STEP: Final = (
    openmm.VerletIntegrator,
    openmm.LangevinIntegrator,
    openmm.LangevinMiddleIntegrator,
    openmm.NoseHooverIntegrator,
)
#: These have no fixed step, no velocities, or no single copy of the system.
_UNFIT: Final = (
    openmm.VariableVerletIntegrator,
    openmm.VariableLangevinIntegrator,
    openmm.BrownianIntegrator,
    openmm.CompoundIntegrator,
    openmm.RPMDIntegrator,
    openmm.DrudeNoseHooverIntegrator,
    openmm.DrudeSCFIntegrator,
    openmm.DrudeLangevinIntegrator,
)


def keeps_half_step_velocities(integrator: openmm.Integrator) -> bool:
    """Whether an integrator's velocities are those of half a step before its positions.

    So it is for OpenMM's leapfrog and middle schemes. Custom integrators, of which OpenMM's
    multiple time step schemes are two, are taken to keep both at the same time.

    Args:
        integrator: of OpenMM.
    """
    return isinstance(integrator, _HALF_STEP)


def kicked(
    context: openmm.Context, velocities: Array, span_ps: float, groups: int | set[int]
) -> Array:
    """Return velocities after the forces have acted for a time, positions as they are.

    Args:
        context: gives positions, forces and masses.
        velocities: `(n_particles, 3)`, nm/ps; of particles without mass they stay.
        span_ps: may be negative.
        groups: force groups that act.
    """
    system = context.getSystem()
    masses = np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])
    forces = context.getState(forces=True, groups=groups).getForces(asNumpy=True)._value
    per_mass = np.divide(span_ps, masses, out=np.zeros_like(masses), where=masses > 0)
    result: Array = velocities + per_mass[:, None] * forces
    return result


class ContextIntegrator:
    """Frames made by an OpenMM integrator from the forces of the system.

    Velocities in and out are those at the times of the frames, whatever the integrator keeps.
    Thermostat and barostat of the system rest meanwhile: they act once per segment.
    """

    reversible = False
    volume_preserving = False

    def __init__(
        self,
        frames: ContextFrames,
        baths: Baths,
        integrator: openmm.Integrator,
        index: int,
        frame_interval_fs: float,
        n_frames: int,
    ) -> None:
        """Take an integrator out of those of a context.

        Args:
            frames: of the context.
            baths: kept silent while this integrates.
            integrator: the one meant.
            index: its place in the compound integrator of the context.
            frame_interval_fs: time between frames.
            n_frames: frames of a full segment.

        Raises:
            ValueError: as `steps_per_frame` does.
        """
        self.frame_interval_fs = frame_interval_fs
        self.n_frames = n_frames
        self._frames, self._baths, self._index = frames, baths, index
        self._integrator = integrator
        self._stride = steps_per_frame(integrator, frame_interval_fs)
        self._half_step = keeps_half_step_velocities(integrator)

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state`; the context is left at its last frame.

        Args:
            state: one replica.
            n_frames: how many frames; a full segment when None.

        Raises:
            ValueError: if OpenMM gives up.
        """
        count = self.n_frames if n_frames is None else n_frames
        context = self._frames.context
        compound = context.getIntegrator()
        self._frames.put(state.positions[0], state.velocities[0])
        if count < 1 or state.n_replicas != 1:
            raise ValueError(
                f"{count} frames of {state.n_replicas} replicas asked for; an OpenMM context "
                "makes at least one frame of one replica"
            )
        made = []
        try:
            with self._baths.silent(context):
                compound.setCurrentIntegrator(self._index)
                context.setTime(state.time_fs * PS_PER_FS)
                self._shift(-0.5)
                for k in range(1, count + 1):
                    compound.step(self._stride)
                    made.append(self._frame(state.time_fs + k * self.frame_interval_fs))
        except openmm.OpenMMException as error:
            raise ValueError(f"the fallback integrator gives up: {error}") from error
        finally:
            compound.setCurrentIntegrator(0)
        return Segment(
            state.molecule,
            torch.tensor([frame.time_fs for frame in made], dtype=torch.float64),
            torch.stack([frame.positions for frame in made], 1),
            torch.stack([frame.velocities for frame in made], 1),
            torch.full((1, count), int(MadeBy.INTEGRATOR), dtype=torch.int8),
            cell=state.cell,
        )

    def restart_state(self) -> dict[str, Tensor]:
        """Return nothing: checkpoints of OpenMM hold what integrators remember."""
        return {}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back nothing."""

    def _frame(self, time_fs: float) -> State:
        """Read a frame, with velocities of its time; the context's own stay."""
        if not self._half_step:
            return self._frames.read(time_fs)
        kept = self._frames.snapshot().velocities
        self._shift(0.5)
        frame = self._frames.read(time_fs)
        self._frames.context.setVelocities(kept)
        return frame

    def _shift(self, steps: float) -> None:
        """Take the context's velocities some part of a step further, on the constraints."""
        if self._half_step:
            move_velocities(self._frames, self._integrator, steps)


def move_velocities(frames: ContextFrames, integrator: openmm.Integrator, steps: float) -> None:
    """Take a context's velocities some part of a step further, positions as they are.

    Args:
        frames: of the context.
        integrator: gives the step and the force groups.
        steps: 0.5 turns velocities of a leapfrog scheme into those at the time of the
            positions, -0.5 undoes that.
    """
    context = frames.context
    span_ps = steps * integrator.getStepSize()._value
    velocities = frames.snapshot().velocities
    groups = integrator.getIntegrationForceGroups()
    context.setVelocities(kicked(context, velocities, span_ps, groups))
    if frames.has_constraints:
        context.applyVelocityConstraints(CONSTRAINT_TOLERANCE)


def steps_per_frame(integrator: openmm.Integrator, frame_interval_fs: float) -> int:
    """Count the steps that an integrator takes from frame to frame.

    Args:
        integrator: the one to fall back to.
        frame_interval_fs: time between frames.

    Raises:
        ValueError: if the integrator is of a kind that cannot make frames, or the interval is
            not a multiple of its step.
    """
    if isinstance(integrator, _UNFIT):
        raise ValueError(
            f"{type(integrator).__name__} cannot be the fallback: frames need velocities and a "
            "fixed step; give, for example, LangevinMiddleIntegrator or VerletIntegrator"
        )
    step_fs = integrator.getStepSize()._value / PS_PER_FS
    ratio = frame_interval_fs / step_fs if step_fs > 0 else 0.0
    steps = round(ratio)
    if steps < 1 or abs(ratio - steps) > 1e-6 * ratio:
        near = frame_interval_fs / max(1, steps)
        raise ValueError(
            f"the fallback's step of {step_fs:g} fs does not divide the {frame_interval_fs:g} fs "
            f"between frames; give it, for example, {near:g} fs"
        )
    return steps
