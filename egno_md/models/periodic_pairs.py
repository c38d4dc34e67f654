"""Pairs within a cutoff, periodic images included, as one graph of many replicas.

Atom `i` of replica `r` is atom `r * n_atoms + i` of the graph. Every pair of an atom and an image
of another (or of itself) is there once, so cells may be smaller than the cutoff. Bonds between the
two are counted along paths that lead to *that* image: images of a molecule that no bonds join are
as strange to each other as two molecules.

A graph stays right while no atom has moved by more than half its skin: a pair beyond the cutoff
contributes exactly nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from egno_md.models.bonded_images import bond_images, bonds_between
from egno_md.models.neighbours import find_neighbours
from egno_md.models.pair_classes import PairClass, PairGraph, element_rows
from egno_md.state import Molecule

if TYPE_CHECKING:
    from egno_md.models.hamiltonian_egno import HamiltonianEGNO

#: Graphs are filled up to a multiple of so many pairs, so that few shapes are ever compiled.
PAIRS_AT_ONCE = 512


@dataclass(frozen=True, slots=True, eq=False)
class NearPairs:
    """Pairs of one flat graph of replicas.

    Attributes:
        pairs: `(2, n_pairs)` int64, atoms i and j of the graph.
        shifts: `(n_pairs, 3)` float64, Å, added to the place of j to get the image that i sees.
        bonds: `(n_pairs,)` int64, bonds between the two, capped.
    """

    pairs: Tensor
    shifts: Tensor
    bonds: Tensor


def near_pairs(
    molecule: Molecule, positions: Tensor, cell: Tensor | None, reach_A: float, bond_cap: int
) -> NearPairs:
    """Find all pairs within some distance and count the bonds between them.

    Args:
        molecule: gives bonds and periodic directions.
        positions: `(n_replicas, n_atoms, 3)`, Å, need not be wrapped.
        cell: `(n_replicas, 3, 3)`, Å, rows are cell vectors; None in vacuum.
        reach_A: pairs closer than this.
        bond_cap: bond distances from here on count as one.

    Raises:
        ValueError: if atoms coincide or are not finite, or the cell is degenerate or too thin
            for the bonds.
    """
    n_replicas, n_atoms = positions.shape[:2]
    places = positions.detach().to("cpu", torch.float64)
    boxes = torch.eye(3, dtype=torch.float64).expand(n_replicas, 3, 3)
    if cell is not None:
        boxes = cell.detach().to("cpu", torch.float64)
    near = find_neighbours(places, reach_A, boxes, molecule.pbc)
    j, i = near.edge_index
    inverse = torch.linalg.inv(boxes)[i // n_atoms]
    images = torch.bmm(near.shifts[:, None], inverse)[:, 0].round().to(torch.int64)
    # Every pair is listed in both directions; an atom sees its own images in opposite pairs.
    ahead = images[:, 0].sign() * 4 + images[:, 1].sign() * 2 + images[:, 2].sign()
    once = (i < j) | ((i == j) & (ahead > 0))
    pairs, images = torch.stack((i, j))[:, once], images[once]
    offsets = torch.arange(n_replicas)[:, None, None] * n_atoms
    bonds = (molecule.bonds.cpu() + offsets).reshape(-1, 2)
    crossed = bond_images(molecule, places, boxes).reshape(-1, 3)
    counts = bonds_between(pairs, images, bonds, crossed, bond_cap)
    return NearPairs(pairs, near.shifts[once], counts)


def periodic_graph(
    model: HamiltonianEGNO,
    molecule: Molecule,
    positions: Tensor,
    cell: Tensor | None,
    skin_A: float,
    *,
    at_least: int = 0,
) -> PairGraph:
    """Make one graph of all replicas, for `model.advance(x.reshape(1, -1, 3), ...)`.

    Large molecules in vacuum have it too: the pairs within the cutoff only.

    Args:
        model: gives cutoff, elements and classes.
        molecule: what moves; its bonds, if any, must be known.
        positions: `(n_replicas, n_atoms, 3)`, Å, need not be wrapped.
        cell: `(n_replicas, 3, 3)`, Å, rows are cell vectors; None in vacuum.
        skin_A: pairs up to the cutoff and this are listed.
        at_least: fill up to so many pairs at least, to meet a shape already compiled.

    Returns:
        The graph of `n_replicas * n_atoms` atoms on the device of the positions, filled up
        with pairs that contribute nothing.

    Raises:
        ValueError: naming what the network was not trained for, or as `near_pairs` does.
    """
    if not 0.0 <= skin_A < math.inf:
        raise ValueError(f"skin_A is {skin_A}; it must be a length in Å, 0 or more")
    near = near_pairs(molecule, positions, cell, model.cutoff_A + skin_A, model.bond_cap)
    n_replicas = positions.shape[0]
    rows = element_rows(molecule.numbers.cpu(), model.elements).repeat(n_replicas)
    numbers = molecule.numbers.cpu().repeat(n_replicas)
    found = _rows_of_classes(near, numbers, model.classes)
    n_pairs = near.pairs.shape[1]
    n_filled = PAIRS_AT_ONCE * math.ceil(max(n_pairs, at_least, 1) / PAIRS_AT_ONCE) - n_pairs
    # An atom and a thing beyond the cutoff that moves along with it.
    nothing = torch.tensor([[2.0 * model.cutoff_A, 0.0, 0.0]], dtype=torch.float64)
    graph = PairGraph(
        rows,
        torch.cat((near.pairs, near.pairs.new_zeros((2, n_filled))), 1),
        torch.cat((found, found.new_zeros(n_filled))),
        molecule.masses.cpu().repeat(n_replicas),
        torch.cat((near.shifts, nothing.expand(n_filled, 3))),
    )
    return graph.to(positions.device)


def near_statistics(
    molecule: Molecule, positions: Tensor, cell: Tensor | None, cutoff_A: float, bond_cap: int
) -> tuple[list[PairClass], Tensor, Tensor]:
    """Mean and spread of the distances within the cutoff of every class in some frames.

    Args:
        molecule: gives elements, bonds and periodic directions.
        positions: `(n_frames, n_atoms, 3)`, Å.
        cell: `(n_frames, 3, 3)`, Å, rows are cell vectors; None in vacuum.
        cutoff_A: pairs farther apart are left out.
        bond_cap: bond distances from here on count as one.

    Returns:
        The classes, and per class the mean and the standard deviation, Å, float64.

    Raises:
        ValueError: if there are no pairs, or as `near_pairs` does.
    """
    near = near_pairs(molecule, positions, cell, cutoff_A, bond_cap)
    if not near.pairs.shape[1]:
        raise ValueError(f"no two atoms are within {cutoff_A} Å of each other")
    i, j = near.pairs
    x = positions.detach().to("cpu", torch.float64).reshape(-1, 3)
    distance = (x[j] + near.shifts - x[i]).norm(dim=-1)
    classes, which = _unique_names(near, molecule.numbers.cpu().repeat(positions.shape[0]))
    values = [distance[which == row] for row in range(len(classes))]
    mean = torch.stack([v.mean() for v in values])
    # A class seen once has no spread.
    spread = torch.stack([v.std() if len(v) > 1 else v.new_tensor(1.0) for v in values])
    return [(a, b, n) for a, b, n in classes.tolist()], mean, spread


def _unique_names(near: NearPairs, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Lighter element, heavier element and bonds, of every kind of pair, ascending.

    Returns:
        `(n_kinds, 3)` and the kind of each pair, `(n_pairs,)`.
    """
    z = numbers[near.pairs]
    n_elements, n_bonds = (
        int(numbers.max()) + 1,
        int(near.bonds.max()) + 1 if len(near.bonds) else 1,
    )
    # One number per pair: to sort rows takes many times as long.
    key = (z.amin(0) * n_elements + z.amax(0)) * n_bonds + near.bonds
    kinds, which = torch.unique(key, return_inverse=True)
    ends = kinds // n_bonds
    return torch.stack((ends // n_elements, ends % n_elements, kinds % n_bonds), 1), which


def _rows_of_classes(near: NearPairs, numbers: Tensor, classes: Sequence[PairClass]) -> Tensor:
    """Look up the class of every pair, `(n_pairs,)`."""
    rows = {name: row for row, name in enumerate(classes)}
    names, which = _unique_names(near, numbers)
    found = torch.zeros(len(names), dtype=torch.int64)
    for k, (a, b, n) in enumerate(names.tolist()):
        if (a, b, n) not in rows:
            i, j = near.pairs[:, int((which == k).nonzero()[0])].tolist()
            raise ValueError(
                f"atoms {i} and {j} (elements {a} and {b}, {n} bonds apart) "
                "are a pair the network was not trained for"
            )
        found[k] = rows[a, b, n]
    return found[which]
