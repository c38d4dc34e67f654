"""Internal coordinates that change slowly: what independent samples are counted in.

Distances of atoms three bonds apart and more say how far the shape of a molecule has changed; the
cosine and sine of one torsion about each bond say which conformer it is in, mirror images apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from egno_md.bonds import bond_graph_distance
from egno_md.state import Molecule, State
from egno_md.trajectories.bond_classes import internal_coordinates
from egno_md.trajectories.histograms import Nearest, bond_lengths, nearest_in, torsion_values

#: Distances that are looked at, at most.
_MOST_PAIRS: Final = 200

#: Torsions that are looked at, at most.
_MOST_TORSIONS: Final = 64

#: Internal coordinates of a state, `(n_replicas, n_coordinates)`.
Coordinates = Callable[[State], Tensor]


def slow_pairs(molecule: Molecule) -> Tensor:
    """Choose pairs of atoms three bonds apart and more, of all atoms where there are none such.

    Args:
        molecule: gives the bonds.

    Returns:
        `(n_pairs, 2)` int64, at most 200; none for a single atom.
    """
    if molecule.n_atoms == 1:
        return torch.zeros((0, 2), dtype=torch.int64)
    pairs = torch.combinations(torch.arange(molecule.n_atoms))
    apart = bond_graph_distance(molecule.n_atoms, molecule.bonds, 3)[pairs[:, 0], pairs[:, 1]]
    chosen = pairs[apart >= 3] if bool((apart >= 3).any()) else pairs
    return chosen[:: -(-len(chosen) // _MOST_PAIRS)]


def slow_torsions(molecule: Molecule) -> Tensor:
    """Choose one torsion about each bond that has one, heavy atoms at its ends where possible.

    Args:
        molecule: gives elements and bonds.

    Returns:
        `(n_torsions, 4)` int64, along the bonds, at most 64.
    """
    best: dict[tuple[int, int], tuple[int, int, int, int]] = {}
    heavy = (molecule.numbers > 1).tolist()
    for i, j, k, m in internal_coordinates(molecule).torsions.tolist():
        had = best.get((j, k))
        if had is None or heavy[i] + heavy[m] > heavy[had[0]] + heavy[had[3]]:
            best[(j, k)] = (i, j, k, m)
    return torch.tensor(list(best.values())[:_MOST_TORSIONS], dtype=torch.int64).reshape(-1, 4)


def slow_distances(start: State) -> Coordinates:
    """Distances of atoms three bonds apart and more, of all atoms where there are none such.

    Args:
        start: gives molecule and cell.

    Returns:
        A function from a state to `(n_replicas, n_pairs)`, Å; positions for a single atom.
    """
    if start.molecule.n_atoms == 1:
        return lambda state: state.positions.flatten(1)
    chosen = slow_pairs(start.molecule)
    nearest = nearest_in(start.molecule, start.cell)
    return lambda state: bond_lengths(state.positions, chosen, nearest)


def slow_values(
    positions: Tensor, pairs: Tensor, torsions: Tensor, nearest: Nearest | None = None
) -> Tensor:
    """Work out the slow coordinates of frames.

    Args:
        positions: `(n_frames, n_atoms, 3)`, Å.
        pairs: `(n_pairs, 2)`, from `slow_pairs`.
        torsions: `(n_torsions, 4)`, from `slow_torsions`.
        nearest: finds nearest images, or None.

    Returns:
        `(n_frames, n_pairs + 2 n_torsions)` float64: distances, Å, cosines, sines.
    """
    distances = bond_lengths(positions, pairs, nearest)
    turned = torsion_values(positions, torsions, nearest)
    return torch.cat([distances, turned.cos(), turned.sin()], 1)
