"""Frames in and out of an OpenMM context: units, virtual sites, frozen atoms, constraints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openmm
import torch
from torch import Tensor

from egno_md.calculators.openmm_molecule import ParticleRoles
from egno_md.calculators.state_numbers import Box, box_nm, positions_nm, velocities_nm_per_ps
from egno_md.state import Molecule, State
from egno_md.units import NM_PER_A, PS_PER_FS

#: 1 Å/fs in nm/ps.
_VELOCITY: float = NM_PER_A / PS_PER_FS

#: Furthest that the frames of a segment may have an atom that must not move, Å.
_FROZEN_TOLERANCE_A = 1e-3

#: Constraints are met to this share of their lengths.
CONSTRAINT_TOLERANCE = 1e-8

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """What a context holds at one instant, in OpenMM's units.

    Attributes:
        positions: `(n_particles, 3)`, nm, unwrapped.
        velocities: same shape, nm/ps.
        box: three vectors, nm.
    """

    positions: Array
    velocities: Array
    box: Box

    def same_as(self, other: Snapshot) -> bool:
        """Whether all numbers are the same."""
        return (
            np.array_equal(self.positions, other.positions)
            and np.array_equal(self.velocities, other.velocities)
            and self.box == other.box
        )


class ContextFrames:
    """Reads states of the atoms out of a context and puts frames into it.

    Virtual sites are placed by OpenMM whenever a frame is put. Atoms without mass keep the
    positions that they have in the context, whatever a frame says.
    """

    def __init__(self, context: openmm.Context, roles: ParticleRoles) -> None:
        """Take hold of a context.

        Args:
            context: of the system that the roles belong to.
            roles: what its particles are.
        """
        self.context = context
        self.roles = roles
        self.has_constraints = context.getSystem().getNumConstraints() > 0
        self._moving = roles.atoms[~roles.frozen]

    @property
    def molecule(self) -> Molecule:
        """Of the atoms."""
        return self.roles.molecule

    def snapshot(self) -> Snapshot:
        """Read everything.

        Raises:
            openmm.OpenMMException: if positions were never set.
        """
        state = self.context.getState(positions=True, velocities=True)
        return Snapshot(positions_nm(state), velocities_nm_per_ps(state), box_nm(state))

    def restore(self, snapshot: Snapshot) -> None:
        """Put everything back."""
        self.context.setPeriodicBoxVectors(*snapshot.box)
        self.context.setPositions(snapshot.positions)
        self.context.setVelocities(snapshot.velocities)

    def read(self, time_fs: float) -> State:
        """Return the atoms as a state of one replica; atoms without mass are at rest.

        Args:
            time_fs: time to give it.

        Raises:
            ValueError: if a number is not finite, naming the atom.
        """
        seen = self.snapshot()
        v = seen.velocities[self.roles.atoms] / _VELOCITY
        v[self.roles.frozen] = 0.0
        cell = None
        if any(self.molecule.pbc):
            cell = torch.tensor(seen.box, dtype=torch.float64)[None] / NM_PER_A
        x = torch.from_numpy(seen.positions[self.roles.atoms] / NM_PER_A)
        return State(self.molecule, x[None], torch.from_numpy(v)[None], time_fs, cell)

    def put(self, positions: Tensor, velocities: Tensor) -> None:
        """Show a frame in the context.

        Args:
            positions: `(n_atoms, 3)`, Å.
            velocities: same shape, Å/fs.
        """
        moves = ~self.roles.frozen
        if len(self._moving) == self.roles.n_particles:
            x, v = np.empty((2, self.roles.n_particles, 3))
        else:
            here = self.snapshot()
            x, v = here.positions.copy(), here.velocities.copy()
        x[self._moving] = positions.detach().cpu().double().numpy()[moves] * NM_PER_A
        v[self._moving] = velocities.detach().cpu().double().numpy()[moves] * _VELOCITY
        self.context.setPositions(x)
        if self.roles.has_virtual_sites:
            self.context.computeVirtualSites()
        self.context.setVelocities(v)

    def project(self) -> None:
        """Move positions and velocities onto the system's constraints."""
        if self.has_constraints:
            self.context.applyConstraints(CONSTRAINT_TOLERANCE)
            self.context.applyVelocityConstraints(CONSTRAINT_TOLERANCE)
            if self.roles.has_virtual_sites:
                self.context.computeVirtualSites()

    def check_frozen(self, start: State, positions: Tensor) -> None:
        """Refuse frames in which an atom without mass moves.

        Args:
            start: where the frames start.
            positions: `(n_replicas, n_frames, n_atoms, 3)`, Å.

        Raises:
            ValueError: naming the atom.
        """
        if not self.roles.frozen.any():
            return
        moved = (positions - start.positions[:, None]).norm(dim=-1).amax((0, 1)).cpu()
        moved = torch.where(torch.from_numpy(self.roles.frozen), moved, 0.0)
        i = int(moved.argmax())
        if float(moved[i]) > _FROZEN_TOLERANCE_A:
            raise ValueError(
                f"atom {i} has no mass, so it must not move, but the propagator moves it by "
                f"{float(moved[i]):.3g} Å; give a propagator that heeds masses, made for "
                "molecule_from_openmm(topology, system), or give the atom its mass"
            )
