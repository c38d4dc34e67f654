"""Langevin dynamics by OpenMM's own integrator, the rival where the true potential is OpenMM's.

`openmm.LangevinMiddleIntegrator` in one context of the potential's platform; replicas are moved one
after the other. For alanine dipeptide on the Reference platform a step costs 12 us of one core (14
with fixed bonds). Handing 16 replicas in and out adds 5 % to frames of 64 steps and 36 % to frames
of 8 steps (4 replicas: 10 and 62 %), mostly in Python.

A context takes a seed only when it is made (100 to 180 us), so one is drawn once, and from then on
the random numbers go on from OpenMM's checkpoint of the last segment (4 us). On the Reference
platform all contexts share them: with the checkpoint, what another one draws in between changes
nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import openmm
import torch
from torch import Tensor

from egno_md.calculators.potential_from_openmm import OpenMMPotential
from egno_md.calculators.state_numbers import Array, positions_nm, velocities_nm_per_ps
from egno_md.propagators.bond_constraints import BondConstraints
from egno_md.propagators.restart import Drawing
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule, State
from egno_md.units import NM_PER_A, PS_PER_FS

#: Å/fs to nm/ps.
_SPEED: Final = NM_PER_A / PS_PER_FS

#: Seeds of OpenMM are 32-bit integers with a sign; 0 means that it chooses one.
_MOST_SEED: Final = 2**31 - 1


class OpenMMLangevin(Drawing):
    """Langevin dynamics in which OpenMM does all but hand over the replicas.

    Forces that remove the motion of the centre of mass, which OpenMM's force fields bring along,
    are left out: the temperature has 3 n_atoms - n_constraints degrees of freedom. Fixed bonds are
    held to OpenMM's tolerance, 1e-5 of their length, and a start is brought onto them first.
    Potential energies of frames are not asked for.
    """

    reversible = False
    volume_preserving = False
    has_bath = True

    def __init__(
        self,
        potential: OpenMMPotential,
        molecule: Molecule,
        timestep_fs: float,
        frame_interval_fs: float,
        n_frames: int,
        temperature_K: float,
        friction_per_ps: float,
        generator: torch.Generator,
        *,
        constraints: BondConstraints | None = None,
    ) -> None:
        """Set up a context like the potential's.

        Args:
            potential: gives system and platform.
            molecule: what moves; gives the masses.
            timestep_fs: integration step.
            frame_interval_fs: time between frames, a multiple of the step.
            n_frames: frames of a full segment.
            temperature_K: temperature of the bath.
            friction_per_ps: friction.
            generator: gives the seed.
            constraints: bonds of fixed length; None for none.

        Raises:
            ValueError: if the interval is not a multiple of the step, or the molecule has other
                atoms than the potential.
        """
        steps = round(frame_interval_fs / timestep_fs)
        if steps < 1 or abs(frame_interval_fs - steps * timestep_fs) > 1e-6 * timestep_fs:
            raise ValueError(
                f"frame_interval_fs {frame_interval_fs} is not a multiple of timestep_fs "
                f"{timestep_fs}"
            )
        if molecule.n_atoms != potential.n_atoms:
            raise ValueError(
                f"the molecule has {molecule.n_atoms} atoms, the OpenMM system {potential.n_atoms}"
            )
        self.molecule, self.generator = molecule, generator
        self.timestep_fs, self.frame_interval_fs = timestep_fs, frame_interval_fs
        self.n_frames, self._steps = n_frames, steps
        self._integrator = openmm.LangevinMiddleIntegrator(
            temperature_K, friction_per_ps, timestep_fs * PS_PER_FS
        )
        self._context = openmm.Context(
            _system(potential, molecule, constraints),
            self._integrator,
            openmm.Platform.getPlatformByName(potential.platform),
        )
        self._held = constraints is not None and len(constraints) > 0
        self._checkpoint: bytes | None = None

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that follows `state`.

        Args:
            state: where to start.
            n_frames: how many frames; a full segment when None.

        Raises:
            ValueError: if no frames are asked for, the molecule is another one, or naming replica
                and time where the dynamics fails.
        """
        count = self.n_frames if n_frames is None else n_frames
        if count < 1:
            raise ValueError(f"n_frames is {count}; ask for at least one frame")
        self._check(state.molecule)
        self._go_on_drawing()
        x, v = self._moved(state, count)
        self._checkpoint = self._context.createCheckpoint()
        after = torch.arange(1, count + 1, dtype=torch.float64)
        return Segment(
            state.molecule,
            state.time_fs + after * self.frame_interval_fs,
            (torch.from_numpy(x) / NM_PER_A).to(state.positions),
            (torch.from_numpy(v) / _SPEED).to(state.velocities),
            torch.full((state.n_replicas, count), int(MadeBy.INTEGRATOR), dtype=torch.int8),
            cell=state.cell,
        )

    def restart_state(self) -> dict[str, Tensor]:
        """The generator's state and, after the first segment, OpenMM's checkpoint.

        The checkpoint is for the same system, version of OpenMM and kind of machine.
        """
        saved = super().restart_state()
        if self._checkpoint is not None:
            # A copy, because bytes cannot be written to and tensors can.
            saved["checkpoint"] = torch.frombuffer(bytearray(self._checkpoint), dtype=torch.uint8)
        return saved

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave.

        Raises:
            ValueError: if the generator's state is missing.
        """
        super().restore(saved)
        found = saved.get("checkpoint")
        self._checkpoint = None if found is None else found.cpu().numpy().tobytes()

    def _go_on_drawing(self) -> None:
        """Put OpenMM's random numbers where the last segment left them, or seed them."""
        if self._checkpoint is None:
            seed = torch.randint(1, _MOST_SEED, (), generator=self.generator)
            self._integrator.setRandomNumberSeed(int(seed))
            # A context takes a seed when it is made, and only then.
            self._context.reinitialize()
            return
        try:
            self._context.loadCheckpoint(self._checkpoint)
        except openmm.OpenMMException as error:
            raise ValueError(
                f"OpenMM does not take the checkpoint in the restart record ({error}); it must be "
                "of the same system, version of OpenMM and kind of machine"
            ) from error

    def _moved(self, state: State, count: int) -> tuple[Array, Array]:
        """Move replica after replica.

        Returns:
            Positions, nm, and velocities, nm/ps, `(n_replicas, count, n_atoms, 3)`.
        """
        shape = (state.n_replicas, count, state.molecule.n_atoms, 3)
        x, v = np.empty(shape), np.empty(shape)
        # All at once: calls of torch for every replica cost as much as a few steps.
        starts_x = (state.positions.detach().cpu().double() * NM_PER_A).numpy()
        starts_v = (state.velocities.detach().cpu().double() * _SPEED).numpy()
        boxes = None
        if state.cell is not None and any(state.molecule.pbc):
            boxes = (state.cell * NM_PER_A).tolist()
        for r in range(state.n_replicas):
            try:
                if boxes is not None:
                    self._context.setPeriodicBoxVectors(*boxes[r])
                self._begin(starts_x[r], starts_v[r])
                for k in range(count):
                    self._integrator.step(self._steps)
                    now = self._context.getState(positions=True, velocities=True)
                    x[r, k], v[r, k] = positions_nm(now), velocities_nm_per_ps(now)
            except openmm.OpenMMException as error:
                raise ValueError(self._failure(state, r, str(error))) from error
        bad = ~(np.isfinite(x) & np.isfinite(v)).all((1, 2, 3))
        if bad.any():
            raise ValueError(self._failure(state, int(bad.argmax()), "numbers are not finite"))
        return x, v

    def _begin(self, positions: Array, velocities: Array) -> None:
        """Write a replica to the context, `(n_atoms, 3)` each, nm and nm/ps."""
        self._context.setPositions(positions)
        self._context.setVelocities(velocities)
        if self._held:
            tolerance = self._integrator.getConstraintTolerance()
            self._context.applyConstraints(tolerance)
            self._context.applyVelocityConstraints(tolerance)

    def _failure(self, state: State, replica: int, why: str) -> str:
        return (
            f"OpenMM's integration in steps of {self.timestep_fs:g} fs failed for replica "
            f"{replica} after {state.time_fs:g} fs: {why}"
        )

    def _check(self, molecule: Molecule) -> None:
        mine = self.molecule
        if not torch.equal(mine.numbers, molecule.numbers) or not torch.equal(
            mine.masses, molecule.masses
        ):
            raise ValueError(
                "the state's molecule has other atoms or masses than the one that the dynamics was "
                "made for; after heavy_hydrogens both must have the new masses"
            )


def _system(
    potential: OpenMMPotential, molecule: Molecule, constraints: BondConstraints | None
) -> openmm.System:
    """The potential's system with the molecule's masses and fixed bonds."""
    system = potential.system()
    for k in reversed(range(system.getNumForces())):
        # It would take three degrees of freedom from the bath.
        if isinstance(system.getForce(k), openmm.CMMotionRemover):
            system.removeForce(k)
    for i, mass in enumerate(molecule.masses.tolist()):
        system.setParticleMass(i, mass)
    if constraints is not None:
        lengths = (constraints.lengths_A * NM_PER_A).tolist()
        for (i, j), length in zip(constraints.pairs.tolist(), lengths, strict=True):
            system.addConstraint(i, j, length)
    return system
