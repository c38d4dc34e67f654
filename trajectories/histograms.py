"""Counting geometry into fixed bins: bonds, angles, torsions and all pairs of atoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from egno_md.state import Molecule
from egno_md.trajectories.bond_classes import InternalCoordinates, internal_coordinates
from egno_md.trajectories.nearest_images import nearest_images
from egno_md.trajectories.radial_distribution import MOST_ATOMS, radial_range_A

#: Turns arrows `(n_frames, n, 3)` between atoms into those to the nearest images.
Nearest = Callable[[Tensor], Tensor]

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
        radial_high_A: where the bins of g(r) end, or None if it is not counted.
    """

    coordinates: InternalCoordinates
    bond_low_A: Tensor
    radial_high_A: float | None = None

    @classmethod
    def around(cls, molecule: Molecule, positions: Tensor, cell: Tensor | None = None) -> Bins:
        """Centre the bins on the mean bond lengths of some frames.

        Args:
            molecule: gives the bonds.
            positions: `(n_replicas, ..., n_atoms, 3)`, Å; frames that are not finite are left
                out.
            cell: `(n_replicas, 3, 3)`, Å, or None without periodicity.
        """
        coordinates = internal_coordinates(molecule)
        frames = positions.reshape(-1, molecule.n_atoms, 3)
        good = torch.isfinite(frames).all(-1).all(-1)
        boxes = None
        if cell is not None:
            boxes = cell.repeat_interleave(len(frames) // len(cell), 0)[good]
        frames = frames[good]
        lengths = bond_lengths(frames, molecule.bonds, nearest_in(molecule, boxes))
        mean = lengths.mean(0) if len(frames) else torch.ones(len(molecule.bonds)).double()
        classes = coordinates.bond_class
        n = len(coordinates.bond_keys)
        total = torch.zeros(n, dtype=torch.float64).index_add_(0, classes, mean)
        mean_of_class = total / torch.bincount(classes, minlength=n).clamp_min(1)
        bulk = cell is not None and all(molecule.pbc) and 1 < molecule.n_atoms <= MOST_ATOMS
        return cls(
            coordinates,
            (mean_of_class - BOND_RANGE_A / 2)[classes],
            radial_range_A(cell) if bulk and cell is not None else None,
        )


def nearest_in(molecule: Molecule, cell: Tensor | None) -> Nearest | None:
    """Return what finds nearest images in the cells of some frames, None without periodicity.

    Args:
        molecule: gives the periodic directions.
        cell: `(n_frames, 3, 3)`, Å, or None.
    """
    if cell is None or not any(molecule.pbc):
        return None
    return partial(nearest_images, cell=cell, pbc=molecule.pbc)


def _arrows(positions: Tensor, i: Tensor, j: Tensor, nearest: Nearest | None) -> Tensor:
    """From atoms j to atoms i, `(..., n, 3)`, Å."""
    found = positions[..., i, :] - positions[..., j, :]
    return found if nearest is None else nearest(found)


def bond_lengths(positions: Tensor, bonds: Tensor, nearest: Nearest | None = None) -> Tensor:
    """Lengths of bonds.

    Args:
        positions: `(..., n_atoms, 3)`, Å.
        bonds: `(n_bonds, 2)` int64.
        nearest: finds nearest images, or None.

    Returns:
        `(..., n_bonds)`, Å, float64.
    """
    x = positions.to(torch.float64)
    along = _arrows(x, bonds[:, 0], bonds[:, 1], nearest)
    lengths: Tensor = torch.linalg.vector_norm(along, dim=-1)
    return lengths


def angle_values(positions: Tensor, angles: Tensor, nearest: Nearest | None = None) -> Tensor:
    """Angles between bonds.

    Args:
        positions: `(..., n_atoms, 3)`, Å.
        angles: `(n_angles, 3)` int64, middle atom in the middle.
        nearest: finds nearest images, or None.

    Returns:
        `(..., n_angles)`, radians, 0..pi, float64.
    """
    x = positions.to(torch.float64)
    first = _arrows(x, angles[:, 0], angles[:, 1], nearest)
    second = _arrows(x, angles[:, 2], angles[:, 1], nearest)
    return torch.atan2(torch.linalg.cross(first, second).norm(dim=-1), (first * second).sum(-1))


def torsion_values(positions: Tensor, torsions: Tensor, nearest: Nearest | None = None) -> Tensor:
    """Torsion angles along chains of four atoms (0 when eclipsed, IUPAC sign).

    Args:
        positions: `(..., n_atoms, 3)`, Å.
        torsions: `(n_torsions, 4)` int64.

    Returns:
        `(..., n_torsions)`, radians, -pi..pi, float64.
    """
    x = positions.to(torch.float64)
    b1, b2, b3 = (_arrows(x, torsions[:, k + 1], torsions[:, k], nearest) for k in range(3))
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
