"""A trained eSCN as a potential: states in, energies and forces out."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from egno_md.models.escn_md import ESCNMD
from egno_md.models.neighbours import Neighbours, find_neighbours
from egno_md.propagators.memory import refuse_too_large
from egno_md.propagators.network_evaluation import (
    check_elements,
    check_finite,
    evaluation_copy,
    replica_pieces,
)
from egno_md.roles import EnergyForces
from egno_md.state import State

if TYPE_CHECKING:
    from egno_md.bundle import Bundle

#: Atoms worked on at a time; keeps the features of the edges in the processor's cache.
ATOMS_AT_ONCE = 1024


#: Edges worked on at a time: what is made of them fits in a processor's cache.
EDGES_AT_ONCE = 2048

#: Where more than this would be kept of the edges for the gradient, it is made again instead.
KEPT_BYTES = 2e9

#: From so many edges on, memory is looked at before the run.
_MANY_EDGES = 100_000


class ESCNPotential:
    """Energies and forces of an `ESCNMD`, for any number of replicas.

    The network computes in its own dtype, but differences of positions are taken in the dtype
    of the state and atom energies are summed in float64. The same state gives the same bits.
    """

    def __init__(
        self,
        model: ESCNMD | Bundle,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        atoms_at_once: int = ATOMS_AT_ONCE,
    ) -> None:
        """Take a private copy of the model, ready for evaluation.

        Args:
            model: an `ESCNMD`, or a bundle that holds one.
            device: where to compute.
            dtype: float32 or float64; the model's own when None.
            atoms_at_once: larger batches are cut into pieces of about so many atoms.

        Raises:
            ValueError: if the bundle holds another kind of model, or for another dtype.
        """
        if atoms_at_once < 1:
            raise ValueError(f"atoms_at_once must be at least 1, got {atoms_at_once}")
        needs = (
            'forces that are the gradient of an energy need "escn-md" '
            "(load_potential opens the published eSCN, whose forces are not)"
        )
        own = evaluation_copy(model, ESCNMD, needs, device=device, dtype=dtype)
        self.model = own.requires_grad_(False)
        self.model.edges_at_once, self.model.kept_bytes = EDGES_AT_ONCE, KEPT_BYTES
        self.device = torch.device(device)
        self.atoms_at_once = atoms_at_once
        #: How neighbours are found: `find_neighbours`, or an object that remembers.
        self.neighbours: Callable[..., Neighbours] = find_neighbours

    @classmethod
    def from_bundle(
        cls,
        name_or_path: str | PathLike[str],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> ESCNPotential:
        """Load a bundle by name or path, for example "ethanol-escn".

        Raises:
            FileNotFoundError: if there is no such bundle.
            ValueError: if it is damaged or of another kind.
        """
        from egno_md.bundle import load_bundle

        return cls(load_bundle(name_or_path, kind="escn"), device=device, dtype=dtype)

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
            virial: also return -dE/d(strain).

        Raises:
            ValueError: for an element the model does not know, atoms in one place, a cell
                without room, or a result that is not finite.
        """
        check_elements(state, self.elements)
        energies, forces, virials, atoms = [], [], [], []
        for piece in replica_pieces(state, self.atoms_at_once):
            # Works inside a caller's no_grad or inference_mode all the same.
            with torch.inference_mode(False), torch.enable_grad():
                places = piece.positions.to(self.device).clone().requires_grad_()
                strain = places.new_zeros((piece.n_replicas, 3, 3)).requires_grad_(virial)
                atom = self._atom_energies(piece, places, strain if virial else None)
                energy = _sums(atom)
                wanted = (places, strain) if virial else (places,)
                slopes = torch.autograd.grad(energy.sum(), wanted, allow_unused=True)
            energies.append(energy.detach())
            atoms.append(atom.detach())
            forces.append(_negative(slopes[0], places))
            if virial:
                virials.append(_negative(slopes[1], strain))
        home = state.positions
        energy, force = torch.cat(energies), torch.cat(forces)
        check_finite(energy, force)
        return EnergyForces(
            energy=energy.to(home.device),
            forces=force.to(home),
            virial=torch.cat(virials).to(home.device, torch.float64) if virial else None,
            atom_energies=torch.cat(atoms).to(home.device),
        )

    def energies(self, state: State) -> Tensor:
        """Return energies only, `(n_replicas,)` float64, eV.

        Raises:
            ValueError: as `evaluate` does.
        """
        return _sums(self.atom_energies(state))

    def atom_energies(self, state: State) -> Tensor:
        """Return the energy of every atom, `(n_replicas, n_atoms)` float64, eV.

        Raises:
            ValueError: as `evaluate` does.
        """
        check_elements(state, self.elements)
        with torch.no_grad():
            parts = [
                self._atom_energies(piece, piece.positions.to(self.device), None)
                for piece in replica_pieces(state, self.atoms_at_once)
            ]
        atoms = torch.cat(parts)
        check_finite(_sums(atoms))
        return atoms.to(state.positions.device)

    def _atom_energies(self, state: State, places: Tensor, strain: Tensor | None) -> Tensor:
        """Energies of the atoms of a piece, `(n_replicas, n_atoms)`, with a graph."""
        cell = None if state.cell is None else state.cell.to(self.device)
        near = self.neighbours(places, self.model.cutoff_A, cell, state.molecule.pbc)
        n_nodes, n_edges = near.n_graphs * places.shape[1], near.edge_index.shape[1]
        if self.device.type == "cpu" and n_edges > _MANY_EDGES:
            needed = self.model.evaluation_bytes(n_nodes, n_edges)
            refuse_too_large(needed, f"{n_nodes} atoms with {n_edges} neighbours")
        shifts = near.shifts
        if strain is not None:
            symmetric = 0.5 * (strain + strain.transpose(1, 2))
            places = places + torch.bmm(places, symmetric)
            turned = symmetric.index_select(0, near.batch.index_select(0, near.edge_index[1]))
            shifts = shifts + torch.bmm(shifts[:, None], turned)[:, 0]
        numbers = state.molecule.numbers.to(self.device).repeat(near.n_graphs)
        # Every atom is a graph of its own to the sum at the end, and to nothing else.
        atom = torch.arange(n_nodes, device=near.batch.device)
        energy: Tensor = self.model(
            places.reshape(-1, 3), numbers, near.edge_index, shifts, atom, n_nodes
        )
        return energy.view(places.shape[:2])


def _sums(atom_energies: Tensor) -> Tensor:
    """Energies of replicas, `(n_replicas,)`: atom after atom, so that no order is left open."""
    n_replicas, n_atoms = atom_energies.shape
    replica = torch.arange(n_replicas, device=atom_energies.device).repeat_interleave(n_atoms)
    zeros = atom_energies.new_zeros(n_replicas)
    return zeros.index_add(0, replica, atom_energies.reshape(-1))


def _negative(slope: Tensor | None, like: Tensor) -> Tensor:
    """Minus the gradient; zero where the energy does not depend on the input."""
    return torch.zeros_like(like).detach() if slope is None else -slope.detach()
