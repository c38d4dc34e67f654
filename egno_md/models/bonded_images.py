"""How many bonds lie between an atom and an image of another, through the faces of a cell."""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.state import Molecule


def bond_images(molecule: Molecule, positions: Tensor, cell: Tensor) -> Tensor:
    """Find the image that each bond leads to: the nearest.

    Args:
        molecule: gives bonds and periodic directions.
        positions: `(n_replicas, n_atoms, 3)` float64, Å, need not be wrapped.
        cell: `(n_replicas, 3, 3)` float64, Å, rows are cell vectors.

    Returns:
        `(n_replicas, n_bonds, 3)` int64: `x[j] + image @ cell` is next to `x[i]`.

    Raises:
        ValueError: if a bond is longer than half the thickness of the cell, where more than one
            image could be meant.
    """
    i, j = molecule.bonds.cpu().T
    apart = positions[:, j] - positions[:, i]
    inverse = torch.linalg.inv(cell)
    images: Tensor = -(apart @ inverse).round() * torch.tensor(molecule.pbc).to(apart)
    length = (apart + images @ cell).norm(dim=-1)
    # Rows of the inverse's transpose are normals whose lengths are one over the thicknesses.
    thickness = 1.0 / inverse.norm(dim=1)
    for axis in range(3):
        far = length >= 0.5 * thickness[:, axis : axis + 1]
        if molecule.pbc[axis] and bool(far.any()):
            r, b = (int(k) for k in far.nonzero()[0])
            raise ValueError(
                f"the bond of atoms {int(i[b])} and {int(j[b])} (replica {r}) is "
                f"{float(length[r, b]):.3g} Å long, the cell {float(thickness[r, axis]):.3g} Å "
                f"thick along its periodic vector {'abc'[axis]}; the cell must be more than "
                "twice as thick as bonds are long: repeat it"
            )
    return images.to(torch.int64)


def bonds_between(
    pairs: Tensor, images: Tensor, bonds: Tensor, bond_images: Tensor, cap: int
) -> Tensor:
    """Count the bonds on the shortest path from each atom to the image of another.

    Args:
        pairs: `(2, n_pairs)` int64, atoms i and j.
        images: `(n_pairs, 3)` int64, the image of j.
        bonds: `(n_bonds, 2)` int64, pairs of atoms.
        bond_images: `(n_bonds, 3)` int64, the image of its second atom that a bond leads to.
        cap: largest count; farther and unconnected images get this number.

    Returns:
        `(n_pairs,)` int64, 1 to `cap`.

    Raises:
        ValueError: if the cap is below 1.
    """
    if cap < 1:
        raise ValueError(f"cap must be at least 1, got {cap}")
    counts = torch.full((pairs.shape[1],), cap, dtype=torch.int64)
    if not len(bonds) or not pairs.shape[1]:
        return counts
    steps = torch.cat(
        (torch.cat((bonds, bond_images), 1), torch.cat((bonds.flip(1), -bond_images), 1))
    )
    steps = steps[torch.argsort(steps[:, 0])]
    n_atoms = 1 + int(torch.maximum(bonds.max(), pairs.max()))
    starts = torch.searchsorted(steps[:, 0].contiguous(), torch.arange(n_atoms + 1))
    reach = cap * int(bond_images.abs().max()) + 1
    wanted = _keys(torch.cat((pairs.T, images), 1), n_atoms, reach)
    inside = (images.abs() <= reach).all(1)
    paths = steps
    for n in range(1, cap):
        known = torch.unique(_keys(paths, n_atoms, reach))
        place = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
        counts[inside & (known[place] == wanted) & (counts == cap)] = n
        paths = _one_bond_more(paths, steps, starts)
    return counts


def _one_bond_more(paths: Tensor, steps: Tensor, starts: Tensor) -> Tensor:
    """Every path followed by every bond of the atom where it ends."""
    end = paths[:, 1]
    degree = starts[end + 1] - starts[end]
    which = torch.repeat_interleave(torch.arange(len(paths)), degree)
    before = degree.cumsum(0) - degree
    bond = steps[starts[end][which] + torch.arange(len(which)) - before[which]]
    longer = torch.cat((paths[which, :1], bond[:, 1:2], paths[which, 2:] + bond[:, 2:]), 1)
    different: Tensor = torch.unique(longer, dim=0)
    return different


def _keys(paths: Tensor, n_atoms: int, reach: int) -> Tensor:
    """One number for start, end and image, as long as the image is within reach."""
    key: Tensor = paths[:, 0] * n_atoms + paths[:, 1]
    for axis in (2, 3, 4):
        key = key * (2 * reach + 1) + (paths[:, axis] + reach)
    return key
