"""How a batch meets a network: one graph for a molecule, a new one for each batch in a cell."""

from __future__ import annotations

import math

from torch import Tensor

from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph
from egno_md.models.periodic_pairs import periodic_graph
from egno_md.propagators.learned import molecule_graph
from egno_md.state import Molecule
from egno_md.units import ACCELERATION_PER_FORCE

#: Skins are multiples of this, Å: those of one length share a compiled shape.
_SKIN_STEP_A = 0.5

#: Room for predicted atoms to go farther than the true ones, Å.
_ROOM_A = 0.1


class CellPairs:
    """Pairs of a periodic system, found anew for each batch.

    All replicas of a batch are one graph. It is filled up to the largest number of pairs met so
    far, so that few shapes are compiled.
    """

    def __init__(self, molecule: Molecule) -> None:
        """Remember the system.

        Args:
            molecule: periodic.
        """
        self.molecule = molecule
        self._most: dict[tuple[int, float], int] = {}

    def graph(
        self, model: HamiltonianEGNO, positions: Tensor, cell: Tensor | None, skin_A: float
    ) -> PairGraph:
        """Make the graph of a batch.

        Args:
            model: the network.
            positions: `(batch, n_atoms, 3)`, Å.
            cell: `(batch, 3, 3)`, Å.
            skin_A: pairs up to the cutoff and this are listed.
        """
        coarse = _SKIN_STEP_A * math.ceil(skin_A / _SKIN_STEP_A)
        kind = (positions.shape[0], coarse)
        most = self._most.get(kind, 0)
        graph = periodic_graph(model, self.molecule, positions, cell, coarse, at_least=most)
        self._most[kind] = max(most, graph.pairs.shape[1])
        return graph


Pairs = PairGraph | CellPairs


def pairs_of(molecule: Molecule, model: HamiltonianEGNO) -> Pairs:
    """Return how the batches of a molecule or a periodic system meet a network.

    Args:
        molecule: what moves.
        model: the network.

    Raises:
        ValueError: naming the atom or pair that the network does not know.
    """
    return CellPairs(molecule) if any(molecule.pbc) else molecule_graph(molecule, model)


def farthest_A(positions: Tensor) -> float:
    """Return how far any atom goes from its start, Å.

    Args:
        positions: `(batch, n_frames, n_atoms, 3)`, Å, the start first.
    """
    return float((positions[:, 1:] - positions[:, :1]).norm(dim=-1).max())


def mean_forces(
    model: HamiltonianEGNO, pairs: Pairs, positions: Tensor, cell: Tensor | None
) -> Tensor:
    """Return a network's forces averaged over its time, `(batch, n_atoms, 3)` eV/Å.

    They are those of U_0. The other modes of the series are left alone, so that a network which
    matches forces is an integrator with those forces.

    Args:
        model: the network.
        pairs: of what moves.
        positions: `(batch, n_atoms, 3)`, Å.
        cell: `(batch, 3, 3)`, Å, or None without periodicity.
    """
    flat, graph = positions, pairs
    if isinstance(graph, CellPairs):
        flat = positions.reshape(1, -1, 3)
        graph = graph.graph(model, positions, cell, 0.0)
    per_acceleration = (graph.masses / ACCELERATION_PER_FORCE).to(positions)[:, None]
    return (per_acceleration * model.acceleration(flat, graph)).reshape(positions.shape)


def advanced(
    model: HamiltonianEGNO,
    pairs: Pairs,
    positions: Tensor,
    velocities: Tensor,
    n_steps: int,
    cell: Tensor | None = None,
    moves_A: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Apply a network's map several times.

    Args:
        model: the network.
        pairs: of what moves.
        positions: `(batch, n_atoms, 3)`, Å.
        velocities: same shape, Å/fs.
        n_steps: applications of the map.
        cell: `(batch, 3, 3)`, Å, or None without periodicity.
        moves_A: how far atoms go meanwhile, Å; in a cell pairs are found once, at the start.

    Returns:
        Positions and velocities after each application, `(batch, n_steps, n_atoms, 3)`.
    """
    if isinstance(pairs, PairGraph):
        return model.advance(positions, velocities, pairs, n_steps)
    graph = pairs.graph(model, positions, cell, 2.0 * (moves_A + _ROOM_A))
    x, v = model.advance(positions.reshape(1, -1, 3), velocities.reshape(1, -1, 3), graph, n_steps)
    shape = (n_steps, *positions.shape)
    return x.reshape(shape).transpose(0, 1), v.reshape(shape).transpose(0, 1)
