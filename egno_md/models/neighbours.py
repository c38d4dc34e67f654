"""Which atoms see which: all pairs within a cutoff, for many replicas at once.

The replicas become one flat graph: atom `i` of replica `r` is node `r * n_atoms + i`. Every
neighbour within the cutoff is kept, periodic images included, so that the graph changes only
where a smooth envelope has already brought the message to zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Closer than this two atoms are the same place, and no direction between them exists.
COINCIDENT_A = 1e-3

#: A periodic cell thinner than this is taken for a mistake.
THINNEST_CELL_A = 0.5

#: Up to this many atoms a dense distance matrix is the fastest way.
_DENSE_ATOMS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Directed edges of one flat graph of replicas.

    Attributes:
        edge_index: `(2, n_edges)` int64; row 0 the source node, row 1 the target node, sorted
            by target.
        shifts: `(n_edges, 3)`, Å, added to the source position to get its periodic image.
        batch: `(n_replicas * n_atoms,)` int64, replica of each node.
        n_graphs: number of replicas.
    """

    edge_index: Tensor
    shifts: Tensor
    batch: Tensor
    n_graphs: int


def find_neighbours(
    positions: Tensor,
    cutoff_A: float,
    cell: Tensor | None = None,
    pbc: tuple[bool, bool, bool] = (False, False, False),
) -> Neighbours:
    """Find all pairs closer than the cutoff.

    Args:
        positions: `(n_replicas, n_atoms, 3)`, Å, need not be wrapped into the cell.
        cutoff_A: pairs closer than this are neighbours, Å.
        cell: `(n_replicas, 3, 3)`, Å, rows are cell vectors; needed where a direction is
            periodic. It may be smaller than the cutoff.
        pbc: which cell vectors are periodic.

    Returns:
        The graph; edges carry no gradient, shifts have the dtype of the positions.

    Raises:
        ValueError: for a position that is not finite, atoms in one place, a missing or
            degenerate cell, or a cutoff that is not positive.
    """
    if not 0.0 < cutoff_A < float("inf"):
        raise ValueError(f"the cutoff must be a positive finite length in Å, got {cutoff_A}")
    if positions.ndim != 3 or positions.shape[2] != 3 or 0 in positions.shape:
        raise ValueError(
            "positions must have shape (n_replicas, n_atoms, 3) with at least one replica and "
            f"one atom, got {tuple(positions.shape)}"
        )
    places = positions.detach()
    _check_finite(places)
    n_replicas, n_atoms = places.shape[:2]
    if any(pbc):
        edge_index, shifts = _from_vesin(places, cutoff_A, _checked_cell(places, cell, pbc), pbc)
    elif n_atoms <= _DENSE_ATOMS:
        edge_index = _from_distances(places, cutoff_A)
        shifts = places.new_zeros((edge_index.shape[1], 3))
    else:
        boxes = torch.eye(3, dtype=places.dtype, device=places.device).expand(n_replicas, 3, 3)
        edge_index, shifts = _from_vesin(places, cutoff_A, boxes, pbc)
    batch = torch.arange(n_replicas, device=places.device).repeat_interleave(n_atoms)
    return Neighbours(edge_index, shifts, batch, n_replicas)


def _check_finite(places: Tensor) -> None:
    finite = torch.isfinite(places)
    if not bool(finite.all()):
        r, i, axis = (int(k) for k in (~finite).nonzero()[0])
        raise ValueError(
            f"position of atom {i} (replica {r}, {'xyz'[axis]}) is {float(places[r, i, axis])} Å; "
            "it must be a finite number"
        )


def _checked_cell(places: Tensor, cell: Tensor | None, pbc: tuple[bool, bool, bool]) -> Tensor:
    """Return the cell after checking that every periodic direction has room."""
    if cell is None:
        raise ValueError(f"periodic directions {pbc} need a cell, got none")
    if tuple(cell.shape) != (places.shape[0], 3, 3) or not bool(torch.isfinite(cell).all()):
        raise ValueError(
            f"the cell must be finite with shape ({places.shape[0]}, 3, 3), got {tuple(cell.shape)}"
        )
    box = cell.detach().to(places)
    volume = torch.linalg.det(box.double()).abs()
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        area = torch.linalg.cross(box[:, others[0]], box[:, others[1]]).norm(dim=-1).double()
        height = volume / area.clamp_min(1e-30)
        if pbc[axis] and not bool((height >= THINNEST_CELL_A).all()):
            r = int((~(height >= THINNEST_CELL_A)).nonzero()[0])
            raise ValueError(
                f"the cell of replica {r} is {float(height[r]):.3g} Å thick along its periodic "
                f"vector {'abc'[axis]}; at least {THINNEST_CELL_A} Å is needed"
            )
    if not bool((volume > 1e-6).all()):
        raise ValueError("the cell has zero volume: its vectors are not independent")
    return box


def _refuse_coincident(replica: int, first: int, second: int, distance_A: float) -> None:
    raise ValueError(
        f"atoms {min(first, second)} and {max(first, second)} (replica {replica}) are "
        f"{distance_A:.3g} Å apart; they must be at least {COINCIDENT_A} Å apart"
    )


def _from_distances(places: Tensor, cutoff_A: float) -> Tensor:
    """Edges of an open system from the dense distance matrix, `(2, n_edges)`."""
    n_atoms = places.shape[1]
    apart = (places[:, :, None] - places[:, None, :]).square().sum(-1)
    apart.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    if n_atoms > 1 and bool((apart < COINCIDENT_A**2).any()):
        r, i, j = (int(k) for k in (apart < COINCIDENT_A**2).nonzero()[0])
        _refuse_coincident(r, i, j, float(apart[r, i, j].sqrt()))
    replica, target, source = (apart < cutoff_A**2).nonzero(as_tuple=True)
    return torch.stack((source, target)) + replica * n_atoms


def _from_vesin(
    places: Tensor, cutoff_A: float, boxes: Tensor, pbc: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor]:
    """Edges `(2, n_edges)` and shifts `(n_edges, 3)` from a cell list, replica by replica."""
    from vesin_torch import NeighborList  # type: ignore[import-untyped]

    lists = NeighborList(cutoff=cutoff_A, full_list=True)
    periodic = torch.tensor(pbc)
    n_atoms = places.shape[1]
    edges, shifts = [], []
    for r in range(places.shape[0]):
        pairs, images, distances = lists.compute(
            points=places[r].double().cpu(),
            box=boxes[r].double().cpu(),
            periodic=periodic,
            quantities="PSd",
        )
        if len(distances) and bool((distances < COINCIDENT_A).any()):
            k = int(distances.argmin())
            _refuse_coincident(r, int(pairs[k, 0]), int(pairs[k, 1]), float(distances[k]))
        order = _lexicographic(pairs, images, n_atoms)
        target, source = pairs[order].to(torch.int64).T
        edges.append(torch.stack((source, target)) + r * n_atoms)
        shifts.append(images[order].double() @ boxes[r].double().cpu())
    return torch.cat(edges, 1).to(places.device), torch.cat(shifts).to(places)


def _lexicographic(pairs: Tensor, images: Tensor, n_atoms: int) -> Tensor:
    """Order by target, source, image: the same input then gives the same bits."""
    if not len(pairs):
        return torch.zeros(0, dtype=torch.int64)
    cells = images.round().to(torch.int64)
    cells = cells - cells.amin(0)
    key = pairs[:, 0].to(torch.int64) * n_atoms + pairs[:, 1].to(torch.int64)
    for axis in range(3):
        key = key * (int(cells[:, axis].max()) + 1) + cells[:, axis]
    return torch.argsort(key)


def filled_edges(
    edge_index: Tensor, shifts: Tensor, n_edges: int, away_A: float
) -> tuple[Tensor, Tensor]:
    """Add edges from the first atom to an image of itself far away, up to a number of edges.

    Beyond the cutoff they change nothing, and all graphs of that many edges have one shape.

    Args:
        edge_index: `(2, k)` int64.
        shifts: `(k, 3)`, Å.
        n_edges: edges wanted.
        away_A: how far away, Å; farther than the cutoff.

    Returns:
        `(2, n_edges)` and `(n_edges, 3)`.

    Raises:
        ValueError: if there are more edges already.
    """
    missing = n_edges - edge_index.shape[1]
    if missing < 0:
        raise ValueError(f"{edge_index.shape[1]} edges cannot be filled up to {n_edges}")
    away = shifts.new_tensor([[0.0, away_A, 0.0]])
    return (
        nn.functional.pad(edge_index, (0, missing)),
        torch.cat((shifts, away.expand(missing, 3))),
    )
