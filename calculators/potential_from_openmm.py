"""Any OpenMM system as a potential: a classical force field that teaches or guards.

OpenMM's units (nm, kJ/mol) are converted here. The Reference platform computes in float64 on one
core; a small molecule costs it tens of microseconds per call.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

import openmm
import torch
from openmm import app
from torch import Tensor

from egno_md.roles import EnergyForces
from egno_md.state import State
from egno_md.units import KJ_PER_MOL, NM_PER_A

#: Force fields with a short name: the files of OpenMM that make them up.
FORCE_FIELDS: Final = {
    "amber14": ("amber14-all.xml", "amber14/tip3pfb.xml"),
    "amber19": ("amber19-all.xml", "amber19/tip3pfb.xml"),
    "charmm36": ("charmm36.xml", "charmm36/water.xml"),
}

#: Cutoff of the direct part of the forces in a periodic cell, nm, where the cell allows it.
_CUTOFF_NM = 1.0


class OpenMMPotential:
    """Energies and forces of an OpenMM system, one replica after the other."""

    def __init__(
        self, system: openmm.System, numbers: list[int] | None = None, platform: str = "Reference"
    ) -> None:
        """Set up a context.

        Args:
            system: without constraints, virtual sites and particles without mass.
            numbers: atomic numbers of its particles, to compare with those of states; None
                compares their count only.
            platform: platform of OpenMM that computes.

        Raises:
            ValueError: if the system has constraints, or particles that are no atoms.
        """
        if system.getNumConstraints():
            raise ValueError(
                f"the OpenMM system has {system.getNumConstraints()} constraints, which forces do "
                "not show; make it with constraints=None and rigidWater=False"
            )
        for i in range(system.getNumParticles()):
            if system.isVirtualSite(i) or system.getParticleMass(i)._value == 0:
                raise ValueError(
                    f"particle {i} of the OpenMM system is a virtual site or has no mass; "
                    "every particle must be an atom that moves"
                )
        if numbers is not None and len(numbers) != system.getNumParticles():
            raise ValueError(
                f"{len(numbers)} atomic numbers for {system.getNumParticles()} particles"
            )
        self.numbers = None if numbers is None else torch.tensor(numbers, dtype=torch.int64)
        self.n_atoms = int(system.getNumParticles())
        self.periodic = bool(system.usesPeriodicBoundaryConditions())
        # The integrator is never asked to step; a context wants one.
        self._context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform)
        )

    @classmethod
    def from_structure(cls, force_field: str, structure: str | Path) -> OpenMMPotential:
        """Apply a force field to the atoms of a PDB file.

        Bonds are flexible. Without a cell all pairs interact; in a cell electrostatics are by
        particle mesh Ewald.

        Args:
            force_field: amber14, amber19, charmm36, or force field files (XML) with commas
                between them, by path or as OpenMM knows them.
            structure: the PDB file, with hydrogens and names as the force field knows them.

        Raises:
            FileNotFoundError: if there is no such structure or force field file.
            ValueError: if the file is no PDB file, or the force field does not know a residue.
        """
        if Path(structure).suffix.lower() not in (".pdb", ".ent"):
            raise ValueError(
                f"{structure}: a force field of OpenMM needs names of atoms and residues; "
                "give a PDB file"
            )
        if not Path(structure).is_file():
            raise FileNotFoundError(f"structure file {structure} does not exist")
        files = FORCE_FIELDS.get(force_field, tuple(force_field.split(",")))
        try:
            topology = app.PDBFile(str(structure)).topology
            field = app.ForceField(*files)
        except Exception as error:  # OpenMM raises whatever its parsing meets
            raise ValueError(f"openmm:{force_field} and {structure}: {error}") from error
        try:
            system = field.createSystem(
                topology, constraints=None, rigidWater=False, **_nonbonded(topology)
            )
        except Exception as error:
            raise ValueError(
                f"force field {force_field} does not fit {structure}: {error}"
            ) from error
        return cls(system, [atom.element.atomic_number for atom in topology.atoms()])

    @property
    def platform(self) -> str:
        """Name of the platform that computes."""
        return str(self._context.getPlatform().getName())

    def system(self) -> openmm.System:
        """Return a copy of the system."""
        return copy.deepcopy(self._context.getSystem())

    def evaluate(self, state: State) -> EnergyForces:
        """Return energies and forces of every replica.

        Args:
            state: of the system's atoms in its order.

        Raises:
            ValueError: if the atoms or the cell do not suit the system, or a result is not finite.
        """
        self._check_atoms(state)
        energies = torch.empty(state.n_replicas, dtype=torch.float64)
        forces = torch.empty(state.positions.shape, dtype=torch.float64)
        for r in range(state.n_replicas):
            found = self._found(state, r, forces=True)
            energies[r] = found.getPotentialEnergy()._value * KJ_PER_MOL
            forces[r] = torch.from_numpy(found.getForces(asNumpy=True)._value)
        forces *= KJ_PER_MOL * NM_PER_A
        self._check_finite(energies, forces)
        return EnergyForces(energies.to(state.positions.device), forces.to(state.positions))

    def energies(self, state: State) -> Tensor:
        """Return energies only, `(n_replicas,)` float64, eV.

        Args:
            state: of the system's atoms in its order.

        Raises:
            ValueError: as `evaluate` does.
        """
        self._check_atoms(state)
        found = [
            self._found(state, r, forces=False).getPotentialEnergy()._value
            for r in range(state.n_replicas)
        ]
        energies = torch.tensor(found, dtype=torch.float64) * KJ_PER_MOL
        self._check_finite(energies, None)
        return energies.to(state.positions.device)

    def _found(self, state: State, replica: int, *, forces: bool) -> openmm.State:
        """Compute one replica."""
        if state.cell is not None and self.periodic:
            self._set_cell(state.cell[replica].detach().cpu().double())
        x = state.positions[replica].detach().cpu().double() * NM_PER_A
        self._context.setPositions(x.numpy())
        return self._context.getState(getEnergy=True, getForces=forces)

    def _set_cell(self, cell: Tensor) -> None:
        """Hand over the cell vectors, `(3, 3)` Å."""
        try:
            self._context.setPeriodicBoxVectors(*(cell * NM_PER_A).tolist())
        except openmm.OpenMMException as error:
            raise ValueError(
                f"OpenMM does not take the cell {cell.tolist()} Å ({error}); it wants the first "
                "vector along x, the second in the plane of x and y, all reduced"
            ) from None

    def _check_atoms(self, state: State) -> None:
        n = state.molecule.n_atoms
        if n != self.n_atoms:
            raise ValueError(f"the state has {n} atoms, the OpenMM system {self.n_atoms}")
        if self.numbers is not None and not torch.equal(state.molecule.numbers.cpu(), self.numbers):
            raise ValueError("the state's atoms differ from those of the OpenMM system")
        if any(state.molecule.pbc) != self.periodic:
            here, there = ("is", "is not") if self.periodic else ("is not", "is")
            raise ValueError(f"the OpenMM system {here} periodic, the state {there}")

    def _check_finite(self, energies: Tensor, forces: Tensor | None) -> None:
        wrong = ~torch.isfinite(energies)
        if forces is not None:
            wrong = wrong | ~torch.isfinite(forces).flatten(1).all(1)
        if bool(wrong.any()):
            raise ValueError(
                f"OpenMM gives an energy or force that is not finite for replica "
                f"{int(wrong.nonzero()[0])}"
            )


def _nonbonded(topology: app.Topology) -> dict[str, Any]:
    """How pairs interact: all of them, or by particle mesh Ewald in a cell."""
    vectors = topology.getPeriodicBoxVectors()
    if vectors is None or all(abs(vectors[k][k]._value - 0.1) < 1e-3 for k in range(3)):
        # A cell of 1 Å is what files without a cell have.
        topology.setPeriodicBoxVectors(None)
        return {"nonbondedMethod": app.NoCutoff}
    narrow = min(vectors[k][k]._value for k in range(3))
    # A little less than half the cell leaves it room to breathe.
    return {"nonbondedMethod": app.PME, "nonbondedCutoff": min(_CUTOFF_NM, 0.49 * narrow)}
