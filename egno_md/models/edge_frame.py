"""A rotation for every edge that turns the edge onto the y axis.

In this frame a tensor product with the spherical harmonics of the edge becomes an SO(2)
convolution (eSCN, arXiv 2302.03655, section 3). Only the image of the edge matters: the roll
about y drops out of an SO(2)-equivariant network, so any frame that is smooth piece by piece
gives the same smooth function. Two charts without angles, each smooth well beyond the seam
at y = 0, keep the gradient exact everywhere, the poles included.
"""

from __future__ import annotations

import torch
from torch import Tensor


def edge_frames(directions: Tensor) -> Tensor:
    """Return rotations R with `R @ direction = (0, 1, 0)`.

    The upper half sphere is turned by the shortest way; the lower half first by half a turn
    about x. No random roll: the same edge always gets the same frame.

    Args:
        directions: `(n_edges, 3)`, unit vectors.

    Returns:
        `(n_edges, 3, 3)`, proper rotations, differentiable to any order.
    """
    x, y, z = directions.unbind(-1)
    # The sign is constant on each half sphere and carries no gradient.
    sign = torch.where(y < 0, -torch.ones_like(y), torch.ones_like(y))
    y, z = sign * y, sign * z
    k = 1.0 / (1.0 + y)
    mixed = -x * z * k
    rows = (
        1.0 - x * x * k,
        -sign * x,
        sign * mixed,
        x,
        sign * y,
        sign * z,
        mixed,
        -sign * z,
        sign * (1.0 - z * z * k),
    )
    return torch.stack(rows, -1).view(-1, 3, 3)
