"""A distance network as a potential: very quick, for the one molecule that it was trained on."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from egno_md.bonds import torn_bond
from egno_md.models.one_molecule import OneMolecule
from egno_md.propagators.network_evaluation import check_finite, evaluation_copy
from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State

if TYPE_CHECKING:
    from egno_md.bundle import Bundle


class DistancePotential:
    """Energies and forces of a network of distances, all replicas in one batch.

    Meant as what proposes in Metropolised segments, as the inner force of multiple time steps, or
    to explore: a trusted potential should have the last word.
    """

    def __init__(
        self,
        model: OneMolecule | Bundle,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Take a private copy of the network, ready for evaluation.

        Args:
            model: a `DistanceNetwork` or `LocalDistanceNetwork`, or a bundle that holds one.
            device: where to compute.
            dtype: float32 or float64; the network's own when None.

        Raises:
            ValueError: if the bundle holds another kind of model, or for another dtype.
        """
        needs = 'a "distance-network" or "local-distance-network" is needed here'
        own = evaluation_copy(model, OneMolecule, needs, device=device, dtype=dtype)
        self.model = own.requires_grad_(False)
        self.device = torch.device(device)
        self._layers = own.folded()
        self._checked: Molecule | None = None

    @classmethod
    def from_bundle(
        cls,
        name_or_path: str | PathLike[str],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> DistancePotential:
        """Load a bundle by name or path.

        Raises:
            FileNotFoundError: if there is no such bundle.
            ValueError: if it is damaged or of another kind.
        """
        from egno_md.bundle import load_bundle

        return cls(load_bundle(name_or_path, kind="distance"), device=device, dtype=dtype)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the network knows."""
        return self.model.elements

    def evaluate(self, state: State) -> EnergyForces:
        """Return energies and forces of every replica.

        Args:
            state: of the network's molecule.

        Raises:
            ValueError: for another molecule, a cell, or a result that is not finite.
        """
        self._check(state)
        with torch.no_grad():
            energy, forces = self.model(state.positions.to(self.device), self._layers)
        check_finite(energy, forces)
        home = state.positions
        return EnergyForces(energy.to(home.device), forces.to(home))

    def energies(self, state: State) -> Tensor:
        """Return energies only, `(n_replicas,)` float64, eV; hardly cheaper than `evaluate`.

        Raises:
            ValueError: as `evaluate` does.
        """
        return self.evaluate(state).energy

    def _check(self, state: State) -> None:
        """Refuse everything but the molecule that it was trained on."""
        molecule = state.molecule
        if molecule is self._checked:
            return
        if any(molecule.pbc):
            raise ValueError("a distance network is of one molecule, without a periodic cell")
        given, known = molecule.numbers.tolist(), list(self.model.numbers)
        if given != known:
            where = next(
                (k for k, (a, b) in enumerate(zip(given, known, strict=False)) if a != b), None
            )
            what = (
                f"atom {where} is of element {given[where]} and there of {known[where]}"
                if where is not None
                else f"there are {len(given)} atoms and there {len(known)}"
            )
            raise ValueError(
                "a distance network knows the molecule that it was trained on, in the same order "
                f"of atoms: {what}"
            )
        bonds = {(min(b), max(b)) for b in molecule.bonds.tolist()}
        mine = {(min(b), max(b)) for b in self.model.bonds}
        if len(molecule.bonds) and bonds != mine:
            i, j = min(bonds ^ mine)
            raise ValueError(
                "a distance network knows the molecule that it was trained on: the bond between "
                f"atoms {i} and {j} is there in one of them only"
            )
        # Without bonds only the places can tell equal elements from one another.
        known_bonds = torch.tensor(sorted(mine), dtype=torch.int64).reshape(-1, 2)
        torn = None if bonds else torn_bond(molecule.numbers, state.positions, known_bonds)
        if torn is not None:
            raise ValueError(
                "a distance network knows the molecule that it was trained on, in the same order "
                f"of atoms: atoms {torn[0]} and {torn[1]} are bonded there and {torn[2]:.2f} Å "
                "apart here; put the atoms in that order, or start from a geometry in which its "
                "bonds are not torn"
            )
        self._checked = molecule
