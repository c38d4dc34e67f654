"""The nearest of all periodic images of an atom, seen from another."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def nearest_images(arrows: Tensor, cell: Tensor, pbc: tuple[bool, bool, bool]) -> Tensor:
    """Turn arrows between atoms into arrows to the nearest image.

    Right for every image closer than `half_thickness_A`: there its fractional coordinates lie
    within a half, and no other image is as close. Farther ones may be missed in a skewed cell.

    Args:
        arrows: `(n, ..., 3)`, Å.
        cell: `(n, 3, 3)`, Å, rows are cell vectors.
        pbc: periodic directions.

    Returns:
        `(n, ..., 3)`, Å, like the arrows.
    """
    n, shape = arrows.shape[0], arrows.shape
    flat = arrows.reshape(n, -1, 3)
    boxes = cell.to(flat)
    whole = (flat @ torch.linalg.inv(boxes)).round() * torch.tensor(pbc).to(flat)
    found: Tensor = flat - whole @ boxes
    return found.reshape(shape)


def half_thickness_A(cell: Tensor, pbc: tuple[bool, bool, bool]) -> float:
    """Return half the smallest distance between opposite periodic faces of any of some cells.

    Args:
        cell: `(n, 3, 3)`, Å, rows are cell vectors.
        pbc: periodic directions; infinite if there are none.
    """
    # Columns of the inverse are normals of the faces, as long as one over the thickness.
    thickness = 1.0 / torch.linalg.inv(cell.to(torch.float64)).norm(dim=1)
    periodic = thickness[:, torch.tensor(pbc)]
    return 0.5 * float(periodic.min()) if periodic.numel() else math.inf
