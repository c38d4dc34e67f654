"""Only the nearest neighbours of each atom: the graph that the published eSCN was trained on.

The cut at a number of neighbours makes energies jump where the nearest change, which no envelope
smooths; potentials for dynamics take all neighbours within their cutoff instead.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from egno_md.models.neighbours import Neighbours

#: Squared distances that differ by less are the same, and the order of the list decides, Å².
SAME_A2: Final = 1e-8

#: Where ties are kept, so much beyond the first neighbour that is too many still counts, Å².
TIE_A2: Final = 0.01


def keep_nearest(
    near: Neighbours, positions: Tensor, max_neighbours: int, *, strict: bool = True
) -> Neighbours:
    """Keep the nearest sources of every target.

    Args:
        near: all pairs within the cutoff, sorted by target.
        positions: `(n, 3)`, Å, of all nodes of the graph.
        max_neighbours: an atom keeps so many.
        strict: keep exactly so many also where the next are as near; otherwise these stay.

    Returns:
        The graph with fewer edges, in the same order.

    Raises:
        ValueError: if no neighbour may be kept.
    """
    if max_neighbours < 1:
        raise ValueError(f"max_neighbours must be at least 1, got {max_neighbours}")
    source, target = near.edge_index
    places = positions.detach().double()
    arrows = places[source] + near.shifts.double() - places[target]
    squared = arrows.square().sum(1)
    # By target, then distance, then as listed: the same structure keeps the same edges.
    order = torch.argsort((squared / SAME_A2).round(), stable=True)
    order = order[torch.argsort(target[order], stable=True)]
    counts = torch.bincount(target, minlength=len(places))
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=order.device) - first[target[order]]
    if strict:
        kept = order[rank < max_neighbours]
    else:
        limit = squared.new_full((len(places),), torch.inf)
        beyond = order[rank == max_neighbours]
        limit[target[beyond]] = squared[beyond] + TIE_A2
        kept = (squared <= limit[target]).nonzero()[:, 0]
    kept = kept.sort().values
    return Neighbours(near.edge_index[:, kept], near.shifts[kept], near.batch, near.n_graphs)
