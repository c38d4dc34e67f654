"""The published eSCN as a potential: forces come straight from the network.

They are not the gradient of the energy, so no dynamics with them conserves energy, and there is
no virial. Fit for comparisons and for relaxations; for dynamics train an `ESCNMD`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from os import PathLike
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from egno_md.models.escn import ESCN
from egno_md.models.nearest_neighbours import keep_nearest
from egno_md.models.neighbours import find_neighbours
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.roles import EnergyForces
from egno_md.state import State

if TYPE_CHECKING:
    from egno_md.bundle import Bundle

#: Atoms worked on at a time.
ATOMS_AT_ONCE: Final = 512


class DirectForcePotential:
    """Energies and direct forces of an `ESCN`, for any number of replicas.

    The graph is the published one: up to `max_neighbours` nearest atoms within the cutoff,
    periodic images included. The same state gives the same bits.
    """

    #: Whether forces are minus the gradient of the energy.
    conservative = False

    def __init__(
        self,
        model: ESCN | Bundle,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        atoms_at_once: int = ATOMS_AT_ONCE,
    ) -> None:
        """Take a private copy of the model, ready for evaluation.

        Args:
            model: an `ESCN`, or a bundle that holds one.
            device: where to compute.
            dtype: float32 or float64; the model's own when None.
            atoms_at_once: larger batches are cut into pieces of about so many atoms.

        Raises:
            ValueError: if the bundle holds another kind of model, or for another dtype.
        """
        if not isinstance(model, torch.nn.Module):
            from egno_md.bundle import build_model

            built = build_model(model)
            if not isinstance(built, ESCN):
                raise ValueError(
                    f"bundle {model.card.name} holds a {model.card.architecture['name']!r} model; "
                    'direct forces need "escn"'
                )
            model = built
        if dtype not in (None, torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        if atoms_at_once < 1:
            raise ValueError(f"atoms_at_once must be at least 1, got {atoms_at_once}")
        own = copy.deepcopy(model).to(device=device, dtype=dtype)
        self.model = own.eval()
        self.model.freeze()
        self.device = torch.device(device)
        self.atoms_at_once = atoms_at_once

    @property
    def cutoff_A(self) -> float:
        """Atoms farther apart than this do not see each other directly, Å."""
        return self.model.cutoff_A

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model knows."""
        return self.model.elements

    def evaluate(self, state: State, virial: bool = False) -> EnergyForces:
        """Return energies and forces of every replica.

        Args:
            state: positions in Å.
            virial: must be False.

        Raises:
            ValueError: if a virial is asked for, for an element the model does not know, atoms in
                one place, a cell without room, or a result that is not finite.
        """
        if virial:
            raise ValueError(
                "this potential gives direct forces, which have no virial; for stress take an "
                "eSCN whose forces are the gradient of its energy (architecture escn-md)"
            )
        self._check_elements(state)
        with torch.no_grad():
            parts = [self._evaluate(piece) for piece in self._pieces(state)]
        energy = torch.cat([energy for energy, _ in parts])
        forces = torch.cat([forces for _, forces in parts])
        for name, values in (("energy", energy), ("forces", forces)):
            finite = torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else None
            wrong = ~(torch.isfinite(values) if finite is None else finite)
            if bool(wrong.any()):
                raise ValueError(
                    f"the {name} of replica {int(wrong.nonzero()[0])} came out not finite; "
                    "the geometry is outside what the potential can describe"
                )
        home = state.positions
        return EnergyForces(energy=energy.to(home.device), forces=forces.to(home), virial=None)

    def energies(self, state: State) -> Tensor:
        """Return energies only, `(n_replicas,)` float64, eV; not cheaper than `evaluate`.

        Raises:
            ValueError: as `evaluate` does.
        """
        return self.evaluate(state).energy

    def _evaluate(self, state: State) -> tuple[Tensor, Tensor]:
        """Energies `(n_replicas,)` and forces `(n_replicas, n_atoms, 3)` of a piece."""
        places = state.positions.to(self.device)
        cell = None if state.cell is None else state.cell.to(self.device)
        near = find_neighbours(places, self.model.cutoff_A, cell, state.molecule.pbc)
        flat, settings = places.reshape(-1, 3), self.model.architecture()
        most, strict = settings["max_neighbours"], settings["strict_neighbours"]
        near = keep_nearest(near, flat, most, strict=strict)
        numbers = state.molecule.numbers.to(self.device).repeat(near.n_graphs)
        energy, forces = self.model(
            flat, numbers, near.edge_index, near.shifts, near.batch, near.n_graphs
        )
        return energy, forces.view(places.shape)

    def _pieces(self, state: State) -> Iterator[State]:
        size = max(1, self.atoms_at_once // state.molecule.n_atoms)
        for start in range(0, state.n_replicas, size):
            yield state.replica(range(start, min(start + size, state.n_replicas)))

    def _check_elements(self, state: State) -> None:
        for atom, number in enumerate(state.molecule.numbers.tolist()):
            if number not in self.model.elements:
                from ase.data import chemical_symbols

                known = ", ".join(chemical_symbols[z] for z in self.model.elements)
                raise ValueError(
                    f"atom {atom} is {chemical_symbols[number]} (Z = {number}); "
                    f"this potential knows only {known}"
                )


def load_potential(
    bundle: str | PathLike[str] | Bundle,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> ESCNPotential | DirectForcePotential:
    """Make the potential of any eSCN bundle, conservative or with direct forces.

    Args:
        bundle: a packaged name, a folder, or a bundle that was read.
        device: where to compute.
        dtype: float32 or float64; the bundle's own when None.

    Returns:
        An `ESCNPotential` for "escn-md", a `DirectForcePotential` for "escn".

    Raises:
        FileNotFoundError: if there is no such bundle.
        ValueError: if it is damaged or of another kind.
    """
    from egno_md.bundle import Bundle, load_bundle

    found = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, kind="escn")
    if found.card.architecture["name"] == "escn":
        return DirectForcePotential(found, device=device, dtype=dtype)
    return ESCNPotential(found, device=device, dtype=dtype)
