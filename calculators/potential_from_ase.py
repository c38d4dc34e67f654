"""Any ASE calculator as a potential: the slow, general door inwards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, get_calculator_class
from torch import Tensor

from egno_md.roles import EnergyForces
from egno_md.state import State

#: What calculators raise when they do not know an element, do not converge, lack a property.
_GIVES_UP = (RuntimeError, ArithmeticError, LookupError, ValueError)


class ASEPotential:
    """Energies and forces of an ASE calculator, one replica after the other.

    ASE's units are ours (eV, Å), so nothing is converted. The energy is the one that the
    forces derive from (`free_energy`) where the calculator offers it. The virial is given for
    systems periodic in all directions if the calculator has stress.
    """

    def __init__(
        self, calculator: BaseCalculator, another: Callable[[], BaseCalculator] | None = None
    ) -> None:
        """Wrap a calculator.

        Args:
            calculator: set up as for any ASE job; charge and spin are its own matter.
            another: makes one more like it: each replica then has its own, which keeps its
                neighbour list from one step to the next. None: all replicas share the one.
        """
        self.calculator = calculator
        self._another, self._calculators = another, [calculator]
        known = set(getattr(calculator, "implemented_properties", ()))
        self._consistent = "free_energy" in known
        self._stress = "stress" in known

    @classmethod
    def named(cls, name: str) -> ASEPotential:
        """Wrap a calculator that ASE knows by name, with its default settings.

        Args:
            name: for example `emt`, `lj`.

        Raises:
            ValueError: if ASE does not know it, or it cannot be made without settings.
        """
        try:
            if not name.isidentifier():
                raise ValueError("not the name of a calculator")
            make = get_calculator_class(name)  # type: ignore[no-untyped-call]
            return cls(make(), make)
        except Exception as error:  # calculators raise whatever their setting up meets
            raise ValueError(f"ase:{name} cannot be opened: {error}") from error

    def evaluate(self, state: State) -> EnergyForces:
        """Return energies, forces and where possible virials of every replica.

        Args:
            state: any system the calculator understands.

        Raises:
            ValueError: naming the replica for which the calculator gives up, or the atom whose
                result is not finite.
        """
        energies, forces, virials = [], [], []
        with_virial = self._stress and all(state.molecule.pbc)
        for r in range(state.n_replicas):
            atoms = self._atoms(state, r)
            try:
                energies.append(self._energy(atoms))
                force = atoms.get_forces()  # type: ignore[no-untyped-call]
                forces.append(torch.from_numpy(force.copy()))
                if with_virial:
                    # Stress is dE/d(strain) per volume, the virial minus dE/d(strain).
                    stress = atoms.get_stress(voigt=False)  # type: ignore[no-untyped-call]
                    volume = float(atoms.get_volume())  # type: ignore[no-untyped-call]
                    virials.append(torch.from_numpy(-volume * stress))
            except _GIVES_UP as error:
                raise self._refusal(r, error) from error
            self._check(r, energies[-1], forces[-1])
        return EnergyForces(
            torch.tensor(energies, dtype=torch.float64, device=state.positions.device),
            torch.stack(forces).to(state.positions),
            torch.stack(virials).to(state.positions) if with_virial else None,
        )

    def energies(self, state: State) -> Tensor:
        """Return energies only, `(n_replicas,)` float64, eV.

        Args:
            state: any system the calculator understands.

        Raises:
            ValueError: as `evaluate` does.
        """
        found = []
        for r in range(state.n_replicas):
            try:
                found.append(self._energy(self._atoms(state, r)))
            except _GIVES_UP as error:
                raise self._refusal(r, error) from error
            self._check(r, found[-1], None)
        return torch.tensor(found, dtype=torch.float64, device=state.positions.device)

    def _atoms(self, state: State, replica: int) -> Atoms:
        cell = None if state.cell is None else state.cell[replica].detach().cpu().double().numpy()
        return Atoms(
            numbers=state.molecule.numbers.cpu().numpy(),
            positions=state.positions[replica].detach().cpu().double().numpy(),
            masses=state.molecule.masses.cpu().numpy(),
            cell=cell,
            pbc=state.molecule.pbc,
            calculator=self._of_replica(replica),
        )

    def _of_replica(self, replica: int) -> BaseCalculator:
        """Return the calculator of a replica."""
        if self._another is None:
            return self.calculator
        while len(self._calculators) <= replica:
            self._calculators.append(self._another())
        return self._calculators[replica]

    def _energy(self, atoms: Atoms) -> float:
        consistent = self._consistent
        energy = atoms.get_potential_energy(force_consistent=consistent)  # type: ignore[no-untyped-call]
        return float(energy)

    def _refusal(self, replica: int, error: Exception) -> ValueError:
        name = type(self.calculator).__name__
        return ValueError(f"the ASE calculator {name} gives up on replica {replica}: {error}")

    def _check(self, replica: int, energy: float, forces: Tensor | None) -> None:
        """Refuse results that are not finite."""
        name = type(self.calculator).__name__
        if not abs(energy) < float("inf"):
            raise ValueError(
                f"the ASE calculator {name} gives an energy of {energy} eV for replica {replica}"
            )
        if forces is not None and not bool(torch.isfinite(forces).all()):
            i = int((~torch.isfinite(forces)).any(-1).nonzero()[0])
            raise ValueError(
                f"the ASE calculator {name} gives a force of {forces[i].tolist()} eV/Å on atom {i} "
                f"of replica {replica}"
            )
