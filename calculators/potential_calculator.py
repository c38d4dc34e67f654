"""Any potential of ours as an ASE calculator: the door outwards.

ASE's units of energy, length and stress are ours. Its stress is dE/d(strain) per volume, the
virial is minus dE/d(strain), so stress = -virial / volume, in the order xx, yy, zz, yz, xz, xy.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from egno_md.ase_atoms import molecule_from_atoms, refuse_charge_and_spin, state_from_atoms
from egno_md.calculators.evaluation_options import checked_threads, threads
from egno_md.calculators.unchanged_atoms import surely_unchanged
from egno_md.roles import EnergyForces, Potential
from egno_md.state import Molecule, State

#: What can be had without a gradient.
_ENERGIES = frozenset(("energy", "free_energy", "energies"))


class PotentialCalculator(Calculator):
    """Energies, forces and where the potential has them stress and energies of atoms.

    Asked for an energy it computes no more than that; asked for forces it computes everything
    it can. Results are kept as ASE does, until positions, elements, cell or periodicity change.
    Masses and velocities do not matter to it.
    """

    def __init__(self, potential: Potential, *, n_threads: int | None = None) -> None:
        """Wrap a potential.

        Args:
            potential: any; `free_energy` and stress are offered where its forces are minus the
                gradient of its energy.
            n_threads: CPU threads while it computes; None leaves torch's setting.

        Raises:
            ValueError: if there are no threads.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.potential = potential
        self.n_threads = checked_threads(n_threads)
        conservative = bool(getattr(potential, "conservative", True))
        self._has_virial = conservative and (
            "virial" in inspect.signature(potential.evaluate).parameters
        )
        self._has_atoms = hasattr(potential, "atom_energies")
        self.implemented_properties = [
            "energy",
            *(["free_energy"] if conservative else []),
            "forces",
            *(["stress"] if self._has_virial else []),
            *(["energies"] if self._has_atoms else []),
        ]
        self._molecule: Molecule | None = None

    def set(self, **settings: object) -> dict[str, Any]:
        """Refuse settings: they are given once, when the calculator is made.

        Raises:
            ValueError: if there is one.
        """
        if settings:
            raise ValueError(
                f"{type(self).__name__} does not know the setting {sorted(settings)[0]!r}, or not "
                "after it was made; make a new calculator"
            )
        return {}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Say what has changed, a charge or spin in `atoms.info` included."""
        changes: list[str] = []
        if not surely_unchanged(self.atoms, atoms):
            changes = super().check_state(atoms, tol)  # type: ignore[no-untyped-call]
        if not changes:
            try:
                refuse_charge_and_spin(atoms)
            except ValueError:
                return ["info"]
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute what is asked for, and what comes with it.

        Args:
            atoms: any the potential understands.
            properties: names as in ASE.
            system_changes: unused.

        Raises:
            ValueError: naming the atom, number or cell vector that is wrong, or the charge.
        """
        super().calculate(atoms, list(properties), list(system_changes))  # type: ignore[no-untyped-call]
        now: Any = self.atoms
        try:
            state = self._state(now)
        except ValueError as error:
            raise ValueError(f"these atoms cannot be computed: {error}") from None
        with threads(self.n_threads):
            if set(properties) <= _ENERGIES:
                self.results = self._energies(state)
                return
            virial = self._has_virial and now.cell.rank == 3
            found = self._evaluate(state, virial)
        self.results = self._named(found, float(now.get_volume()) if virial else None)

    def _state(self, atoms: Atoms) -> State:
        """Check the atoms; the molecule is kept as long as elements and periodicity are."""
        refuse_charge_and_spin(atoms)
        known = self._molecule
        if (
            known is None
            or not np.array_equal(known.numbers.numpy(), atoms.numbers)
            or known.pbc != tuple(bool(p) for p in atoms.pbc)
        ):
            self._molecule = known = molecule_from_atoms(atoms)
        return state_from_atoms(atoms, known, at_rest=True)

    def _evaluate(self, state: State, virial: bool) -> EnergyForces:
        if virial:
            return self.potential.evaluate(state, virial=True)  # type: ignore[call-arg]
        return self.potential.evaluate(state)

    def _energies(self, state: State) -> dict[str, Any]:
        """Results without forces."""
        results: dict[str, Any] = {}
        if self._has_atoms:
            of_atoms = self.potential.atom_energies(state)  # type: ignore[attr-defined]
            results["energies"] = of_atoms[0].cpu().numpy()
            energy = float(of_atoms[0].cumsum(0)[-1])
        else:
            energy = float(self.potential.energies(state)[0])
        return self._with_energy(results, energy)

    def _named(self, found: EnergyForces, volume: float | None) -> dict[str, Any]:
        """Results with forces; stress where there is a volume, Å^3."""
        results: dict[str, Any] = {"forces": found.forces[0].double().cpu().numpy()}
        if found.atom_energies is not None:
            results["energies"] = found.atom_energies[0].cpu().numpy()
        if found.virial is not None and volume is not None:
            stress = -found.virial[0].double().cpu().numpy() / volume
            results["stress"] = full_3x3_to_voigt_6_stress(stress)  # type: ignore[no-untyped-call]
        return self._with_energy(results, float(found.energy[0]))

    def _with_energy(self, results: dict[str, Any], energy: float) -> dict[str, Any]:
        if "free_energy" in self.implemented_properties:
            results["free_energy"] = energy
        return {"energy": energy, **results}
