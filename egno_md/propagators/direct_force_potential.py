"""The published eSCN as a potential: forces come straight from the network.

They are not the gradient of the energy, so no dynamics with them conserves energy, and there is
no virial. Fit for comparisons and for relaxations; for dynamics train an `ESCNMD`.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from egno_md.models.escn import ESCN
from egno_md.models.frozen_graph import Compiling
from egno_md.models.nearest_neighbours import keep_nearest
from egno_md.models.neighbours import find_neighbours
from egno_md.propagators.escn_potential import ESCNPotential
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
        if atoms_at_once < 1:
            raise ValueError(f"atoms_at_once must be at least 1, got {atoms_at_once}")
        needs = 'direct forces need "escn"'
        self.model = evaluation_copy(model, ESCN, needs, device=device, dtype=dtype)
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
        check_elements(state, self.elements)
        with torch.no_grad():
            pieces = replica_pieces(state, self.atoms_at_once)
            parts = [self._evaluate(piece) for piece in pieces]
        energy = torch.cat([energy for energy, _ in parts])
        forces = torch.cat([forces for _, forces in parts])
        check_finite(energy, forces)
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


def load_potential(
    bundle: str | PathLike[str] | Bundle,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    compile: bool | Compiling = False,
) -> ESCNPotential | DirectForcePotential:
    """Make the potential of any eSCN bundle, conservative or with direct forces.

    Args:
        bundle: a packaged name, a folder, or a bundle that was read.
        device: where to compute.
        dtype: float32 or float64; the bundle's own when None.
        compile: whether to compile, or how; see `ESCNPotential`.

    Returns:
        An `ESCNPotential` for "escn-md", a `DirectForcePotential` for "escn".

    Raises:
        FileNotFoundError: if there is no such bundle.
        ValueError: if it is damaged or of another kind, or has direct forces and is to be compiled.
    """
    from egno_md.bundle import Bundle, load_bundle

    found = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, kind="escn")
    if found.card.architecture["name"] == "escn":
        if compile:
            raise ValueError(
                f"bundle {found.name} is a published eSCN with direct forces; compile is for "
                '"escn-md" only'
            )
        return DirectForcePotential(found, device=device, dtype=dtype)
    return ESCNPotential(found, device=device, dtype=dtype, compile=compile)
