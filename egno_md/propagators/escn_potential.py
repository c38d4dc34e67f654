"""A trained eSCN as a potential: states in, energies and forces out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from egno_md.models.compiled_energies import CompiledEnergies
from egno_md.models.escn_md import ESCNMD
from egno_md.models.frozen_graph import Compiling
from egno_md.models.neighbours import Neighbours, find_neighbours
from egno_md.propagators.memory import refuse_too_large
from egno_md.propagators.network_evaluation import (
    check_elements,
    check_finite,
    evaluation_copy,
    groups_of,
    replica_pieces,
)
from egno_md.roles import EnergyForces
from egno_md.state import State

if TYPE_CHECKING:
    from egno_md.bundle import Bundle

#: Atoms worked on at a time; keeps the features of the edges in the processor's cache.
ATOMS_AT_ONCE = 1024

#: Compiled, replicas are evaluated in groups: so many, of no more atoms than this.
COMPILED_REPLICAS = 8
COMPILED_ATOMS = 256

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
        compile: bool | Compiling = False,
    ) -> None:
        """Take a private copy of the model, ready for evaluation.

        Args:
            model: an `ESCNMD`, or a bundle that holds one.
            device: where to compute.
            dtype: float32 or float64; the model's own when None.
            atoms_at_once: larger batches are cut into pieces of about so many atoms.
            compile: whether to compile at the first evaluation, or how; where that fails or does
                not pay, the reason is logged.

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
        self.compiled: CompiledEnergies | None = None
        if compile:
            self.compile(Compiling() if compile is True else compile)
        #: How neighbours are found: `find_neighbours`, or an object that remembers.
        self.neighbours: Callable[..., Neighbours] = find_neighbours

    @classmethod
    def from_bundle(
        cls,
        name_or_path: str | PathLike[str],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        compile: bool | Compiling = False,
    ) -> ESCNPotential:
        """Load a bundle by name or path, for example "ethanol-escn".

        The options are those of the constructor.

        Raises:
            FileNotFoundError: if there is no such bundle.
            ValueError: if it is damaged or of another kind.
        """
        from egno_md.bundle import load_bundle

        bundle = load_bundle(name_or_path, kind="escn")
        return cls(bundle, device=device, dtype=dtype, compile=compile)

    def compile(self, how: Compiling) -> None:
        """From now on compile, at the next evaluation.

        Args:
            how: to compile.
        """
        self.compiled = CompiledEnergies(self.model, how)

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
        found = [self._evaluated(*piece, virial) for piece in self._pieces(state)]
        atoms, slopes = torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])
        energy, force = _sums(atoms), -slopes
        home = state.positions
        check_finite(energy, force)
        virials = [f[2] for f in found if f[2] is not None]
        return EnergyForces(
            energy=energy.to(home.device),
            forces=force.to(home),
            virial=-torch.cat(virials).to(home.device, torch.float64) if virial else None,
            atom_energies=atoms.to(home.device),
        )

    def _pieces(self, state: State) -> Iterator[tuple[State, int]]:
        """What is evaluated together, and how many of its replicas count."""
        if self.compiled is None:
            for piece in replica_pieces(state, self.atoms_at_once):
                yield piece, piece.n_replicas
            return
        group = max(1, min(COMPILED_REPLICAS, COMPILED_ATOMS // state.molecule.n_atoms))
        yield from groups_of(state, group)

    def _evaluated(
        self, piece: State, n_replicas: int, virial: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Energies of atoms, their gradient and that with respect to strain, of a piece.

        Args:
            piece: what is evaluated.
            n_replicas: so many of its replicas count.
            virial: whether the gradient with respect to strain is wanted.
        """
        # Works inside a caller's no_grad or inference_mode all the same.
        with torch.inference_mode(False), torch.enable_grad():
            places = piece.positions.to(self.device).clone()
            near, numbers = self._graph(piece, places)
            if self.compiled is not None:
                found = _by_compiled(self.compiled, places, numbers, near, virial)
                if found is not None:
                    atoms, slope, strained = found
                    n = n_replicas
                    return atoms[:n], slope[:n], None if strained is None else strained[:n]
            places.requires_grad_()
            strain = places.new_zeros((piece.n_replicas, 3, 3)).requires_grad_(virial)
            atoms = self._atom_energies(places, numbers, near, strain if virial else None)
            wanted = (places, strain) if virial else (places,)
            slopes = torch.autograd.grad(_sums(atoms).sum(), wanted, allow_unused=True)
        of_strain = _or_zeros(slopes[1], strain) if virial else None
        if of_strain is not None:
            of_strain = of_strain[:n_replicas]
        return atoms.detach()[:n_replicas], _or_zeros(slopes[0], places)[:n_replicas], of_strain

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
            parts = [self._energies_only(piece)[:n] for piece, n in self._pieces(state)]
        atoms = torch.cat(parts)
        check_finite(_sums(atoms))
        return atoms.to(state.positions.device)

    def _energies_only(self, piece: State) -> Tensor:
        """Energies of the atoms of a piece, `(n_replicas, n_atoms)`."""
        places = piece.positions.to(self.device)
        near, numbers = self._graph(piece, places)
        if self.compiled is not None:
            flat = places.reshape(-1, 3)
            found = self.compiled(flat, numbers, near.edge_index, near.shifts, gradients=False)
            if found is not None:
                return found.atoms.view(places.shape[:2])
        return self._atom_energies(places, numbers, near, None)

    def _graph(self, state: State, places: Tensor) -> tuple[Neighbours, Tensor]:
        """Neighbours of a piece, and atomic numbers of all its replicas."""
        cell = None if state.cell is None else state.cell.to(self.device)
        near = self.neighbours(places, self.model.cutoff_A, cell, state.molecule.pbc)
        return near, state.molecule.numbers.to(self.device).repeat(near.n_graphs)

    def _atom_energies(
        self, places: Tensor, numbers: Tensor, near: Neighbours, strain: Tensor | None
    ) -> Tensor:
        """Energies of the atoms of a piece, `(n_replicas, n_atoms)`, with a graph."""
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
        # Every atom is a graph of its own to the sum at the end, and to nothing else.
        atom = torch.arange(n_nodes, device=near.batch.device)
        energy: Tensor = self.model(
            places.reshape(-1, 3), numbers, near.edge_index, shifts, atom, n_nodes
        )
        return energy.view(places.shape[:2])


def _by_compiled(
    compiled: CompiledEnergies, places: Tensor, numbers: Tensor, near: Neighbours, virial: bool
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Energies of atoms and gradients by a compiled function, or None where it does not serve."""
    flat = places.reshape(-1, 3)
    found = compiled(flat, numbers, near.edge_index, near.shifts)
    if found is None or found.gradients is None:
        return None
    of_places, of_shifts = found.gradients
    of_strain = None
    if virial:
        # Strain moves places and shifts: r -> r (1 + strain), symmetric.
        of_strain = places.new_zeros((near.n_graphs, 3, 3))
        of_strain.index_add_(0, near.batch, flat[:, :, None] * of_places[:, None])
        graph = near.batch.index_select(0, near.edge_index[1])
        of_strain.index_add_(0, graph, near.shifts[:, :, None] * of_shifts[:, None])
        of_strain = 0.5 * (of_strain + of_strain.transpose(1, 2))
    return found.atoms.view(places.shape[:2]), of_places.view(places.shape), of_strain


def _sums(atom_energies: Tensor) -> Tensor:
    """Energies of replicas, `(n_replicas,)`: atom after atom, so that no order is left open."""
    n_replicas, n_atoms = atom_energies.shape
    replica = torch.arange(n_replicas, device=atom_energies.device).repeat_interleave(n_atoms)
    zeros = atom_energies.new_zeros(n_replicas)
    return zeros.index_add(0, replica, atom_energies.reshape(-1))


def _or_zeros(slope: Tensor | None, like: Tensor) -> Tensor:
    """The gradient; zero where the energy does not depend on the input."""
    return torch.zeros_like(like).detach() if slope is None else slope.detach()
