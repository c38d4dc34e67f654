"""Which particles of an OpenMM system are atoms of a molecule, and of which molecule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import openmm
import torch
from openmm import app, unit

from egno_md.state import Molecule, State
from egno_md.units import NM_PER_A

#: Mass of an atom that must stay where it is, amu: no force moves it by a bit of float64.
FROZEN_MASS_AMU: Final = 1e15


@dataclass(frozen=True, slots=True, eq=False)
class ParticleRoles:
    """What the particles of a system are.

    Attributes:
        molecule: of the atoms; `pbc` follows the system, or without forces the topology.
        atoms: `(n_atoms,)` int64, particle of each atom. The other particles are virtual sites.
        frozen: `(n_atoms,)` bool, atoms without mass, which never move.
        n_particles: particles of the system.
    """

    molecule: Molecule
    atoms: np.ndarray[Any, Any]
    frozen: np.ndarray[Any, Any]
    n_particles: int

    @property
    def has_virtual_sites(self) -> bool:
        """Whether some particles are no atoms."""
        return len(self.atoms) < self.n_particles


def particle_roles(topology: app.Topology, system: openmm.System) -> ParticleRoles:
    """Find the atoms of a system and what they are.

    Virtual sites are no atoms. Masses are the system's, so repartitioned hydrogen masses count;
    particles without mass get `FROZEN_MASS_AMU`, with which dynamics leaves them in place.

    Args:
        topology: gives elements, names and bonds.
        system: gives masses and virtual sites, and whether there is a cell.

    Raises:
        ValueError: if the two do not belong together, or naming the particle that is neither an
            atom of a known element nor a virtual site.
    """
    everything = list(topology.atoms())
    n = int(system.getNumParticles())
    if len(everything) != n:
        raise ValueError(
            f"the topology has {len(everything)} atoms and the system {n} particles; "
            "make the system from this topology"
        )
    atoms = [i for i in range(n) if not system.isVirtualSite(i)]
    for i in atoms:
        if everything[i].element is None:
            raise ValueError(
                f"particle {i} ({everything[i].name}) has no element and is no virtual site; "
                "segments are made for atoms, and virtual sites are placed by OpenMM"
            )
    masses = np.array([float(system.getParticleMass(i)._value) for i in atoms])
    frozen = masses == 0.0
    place = {i: k for k, i in enumerate(atoms)}
    bonds = sorted(
        {
            tuple(sorted((place[a.index], place[b.index])))
            for a, b in topology.bonds()
            if a.index in place and b.index in place
        }
    )
    periodic = _is_periodic(topology, system)
    molecule = Molecule(
        torch.tensor([everything[i].element.atomic_number for i in atoms], dtype=torch.int64),
        torch.from_numpy(np.where(frozen, FROZEN_MASS_AMU, masses)),
        torch.tensor(bonds, dtype=torch.int64).reshape(-1, 2),
        tuple(everything[i].name for i in atoms),
        (periodic,) * 3,
    )
    return ParticleRoles(molecule, np.array(atoms, dtype=np.int64), frozen, n)


def _is_periodic(topology: app.Topology, system: openmm.System) -> bool:
    """Whether there is a cell: the forces say, and without forces between atoms the topology."""
    acting = [
        force
        for force in system.getForces()
        if not isinstance(force, openmm.CMMotionRemover | openmm.AndersenThermostat)
        and "Barostat" not in type(force).__name__
    ]
    if not acting:
        return topology.getPeriodicBoxVectors() is not None
    return bool(system.usesPeriodicBoundaryConditions())


def molecule_from_openmm(topology: app.Topology, system: openmm.System) -> Molecule:
    """Return the molecule that propagators for a simulation of this system are made for.

    Args:
        topology: with elements and bonds.
        system: made from it.

    Raises:
        ValueError: as `particle_roles` does.
    """
    return particle_roles(topology, system).molecule


def state_from_openmm(topology: app.Topology, system: openmm.System, positions: Any) -> State:  # noqa: ANN401
    """Return a state at rest of the atoms of a system.

    Args:
        topology: with elements and bonds.
        system: made from it; its default box is the cell if it is periodic.
        positions: of all particles, a Quantity, or numbers in nm.

    Raises:
        ValueError: as `particle_roles` does, or if there are not as many positions.
    """
    roles = particle_roles(topology, system)
    x = positions.value_in_unit(unit.nanometer) if unit.is_quantity(positions) else positions
    x = np.array([tuple(p) for p in x], dtype=np.float64).reshape(-1, 3)
    if len(x) != roles.n_particles:
        raise ValueError(f"{len(x)} positions for {roles.n_particles} particles")
    cell = None
    if any(roles.molecule.pbc):
        box = system.getDefaultPeriodicBoxVectors()
        cell = torch.tensor([tuple(v._value) for v in box], dtype=torch.float64) / NM_PER_A
    return State.at_rest(roles.molecule, torch.from_numpy(x[roles.atoms] / NM_PER_A), cell=cell)
