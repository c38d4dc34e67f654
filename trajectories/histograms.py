"""Counting geometry into fixed bins: bonds, angles, torsions and all pairs of atoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from egno_md.state import Molecule
from egno_md.trajectories.bond_classes import InternalCoordinates, internal_coordinates

#: Bins of a bond-length histogram; the first and last also take everything beyond.
BOND_BINS: Final = 60

#: Width of a bond-length histogram in Å, centred on the mean length of the bond's class.
BOND_RANGE_A: Final = 0.6

#: h(r) as in Fu et al. 2023 (arXiv 2210.07237): 500 bins from 1e-6 to 10 Å.
PAIR_BINS: Final = 500
PAIR_LOW_A: Final = 1e-6
PAIR_HIGH_A: Final = 10.0

#: Bins of the angle (0..pi) and torsion (-pi..pi) histograms.
ANGLE_BINS: Final = 60


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Where the bins of a molecule's histograms lie.

    Attributes:
        coordinates: the bonds, angles and torsions that are counted.
        bond_low_A: `(n_bonds,)` float64, lower end of each bond's range; alike bonds share it.
    """

    coordinates: InternalCoordinates
    bond_low_A: Tensor

    @classmethod
    def around(cls, molecule: Molecule, positions: Tensor) -> Bins:
        """Centre the bins on the mean bond lengths of some frames.

        Args:
            molecule: gives the bonds.
            positions: `(..., n_atoms, 3)`, Å; frames that are not finite are left out.
        """
        coordinates = internal_coordinates(molecule)
        frames = positions.reshape(-1, molecule.n_atoms, 3)
        frames = frames[torch.isfinite(frames).all(-1).all(-1)]
        lengths = bond_lengths(frames, molecule.bonds)
        mean = lengths.mean(0) if len(frames) else torch.ones(len(molecule.bonds)).double()
        classes = coordinates.bond_class
        n = len(coordinates.bond_keys)
        total = torch.zeros(n, dtype=torch.float64).index_add_(0, classes, mean)
        mean_of_class = total / torch.bincount(classes, minlength=n).clamp_min(1)
        return cls(coordinates, (mean_of_class - BOND_RANGE_A / 2)[classes])


def bond_lengths(positions: Tensor, bonds: Tensor) -> Tensor:
    """Lengths of bonds.

    Args:
        positions: `(..., n_atoms, 3)`, Å.
        bonds: `(n_bonds, 2)` int64.

    Returns:
        `(..., n_bonds)`, Å, float64.
    """
    x = positions.to(torch.float64)
    along: Tensor = x[..., bonds[:, 0], :] - x[..., bonds[:, 1], :]
    lengths: Tensor = torch.linalg.vector_norm(along, dim=-1)
    return lengths


def angle_values(positions: Tensor, angles: Tensor) -> Tensor:
    """Angles between bonds.

    Args:
        positions: `(..., n_atoms, 3)`, Å.
        angles: `(n_angles, 3)` int64, middle atom in the middle.

    Returns:
        `(..., n_angles)`, radians, 0..pi, float64.
    """
    x = positions.to(torch.float64)
    first = x[..., angles[:, 0], :] - x[..., angles[:, 1], :]
    second = x[..., angles[:, 2], :] - x[..., angles[:, 1], :]
    return torch.atan2(torch.linalg.cross(first, second).norm(dim=-1), (first * second).sum(-1))


def torsion_values(positions: Tensor, torsions: Tensor) -> Tensor:
    """Torsion angles along chains of four atoms (0 when eclipsed, IUPAC sign).

    Args:
        positions: `(..., n_atoms, 3)`, Å.
        torsions: `(n_torsions, 4)` int64.

    Returns:
        `(..., n_torsions)`, radians, -pi..pi, float64.
    """
    x = positions.to(torch.float64)
    b1 = x[..., torsions[:, 1], :] - x[..., torsions[:, 0], :]
    b2 = x[..., torsions[:, 2], :] - x[..., torsions[:, 1], :]
    b3 = x[..., torsions[:, 3], :] - x[..., torsions[:, 2], :]
    n1 = torch.linalg.cross(b1, b2)
    n2 = torch.linalg.cross(b2, b3)
    sine = (b2.norm(dim=-1, keepdim=True) * b1 * n2).sum(-1)
    return torch.atan2(sine, (n1 * n2).sum(-1))


def pair_distances(positions: Tensor) -> Tensor:
    """Distances of all pairs of atoms, each pair once.

    Args:
        positions: `(n_frames, n_atoms, 3)`, Å.

    Returns:
        `(n_frames, n_atoms (n_atoms - 1) / 2)`, Å, float64.
    """
    n = positions.shape[1]
    first, second = torch.triu_indices(n, n, 1)
    return bond_lengths(positions, torch.stack([first, second], 1))


def count_columns(
    values: Tensor, block: Tensor, n_blocks: int, low: Tensor, width: Tensor, n_bins: int
) -> Tensor:
    """Count each column of values into its own bins; what lies beyond goes to the end bins.

    Args:
        values: `(n_frames, n_columns)`.
        block: `(n_frames,)` int64, the block each frame belongs to.
        n_blocks: number of blocks.
        low: `(n_columns,)`, lower end of the range.
        width: `(n_columns,)`, width of the range.
        n_bins: bins of every column.

    Returns:
        `(n_blocks, n_columns, n_bins)` int64.
    """
    n_columns = values.shape[1]
    at = ((values - low) / width * n_bins).floor().long().clamp_(0, n_bins - 1)
    column = torch.arange(n_columns)
    flat = (block[:, None] * n_columns + column) * n_bins + at
    counts = torch.bincount(flat.reshape(-1), minlength=n_blocks * n_columns * n_bins)
    return counts.reshape(n_blocks, n_columns, n_bins)


def count_pairs(positions: Tensor, block: Tensor, n_blocks: int) -> Tensor:
    """Count all pair distances into the bins of h(r); distances beyond 10 Å are left out.

    Args:
        positions: `(n_frames, n_atoms, 3)`, Å.
        block: `(n_frames,)` int64.
        n_blocks: number of blocks.

    Returns:
        `(n_blocks, 500)` int64.
    """
    distances = pair_distances(positions)
    scale = PAIR_BINS / (PAIR_HIGH_A - PAIR_LOW_A)
    at = ((distances - PAIR_LOW_A) * scale).floor().long()
    inside = (distances >= PAIR_LOW_A) & (at < PAIR_BINS)
    flat = (block[:, None] * PAIR_BINS + at)[inside]
    return torch.bincount(flat, minlength=n_blocks * PAIR_BINS).reshape(n_blocks, PAIR_BINS)


def sum_alike(counts: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    """Add the histograms of alike coordinates.

    Args:
        counts: `(n_blocks, n_columns, n_bins)`.
        classes: `(n_columns,)` int64.
        n_classes: number of classes.

    Returns:
        `(n_blocks, n_classes, n_bins)` int64.
    """
    shape = (counts.shape[0], n_classes, counts.shape[2])
    return torch.zeros(shape, dtype=torch.int64).index_add_(1, classes, counts.to(torch.int64))
