"""Wigner matrices of rotations: how spherical-harmonic coefficients turn.

Built degree by degree from the rotation matrix itself with Clebsch-Gordan coefficients,

    D^0 = 1,  D^1 = R,  D^l = (2 l + 1) C^T (D^(l-1) (x) R) C,  C = w3j(l - 1, 1, l),

which is a polynomial in R: no angles, exact at the poles, differentiable to any order. Basis
and signs are those of e3nn: degree by degree, m = -l..l, with (x, y, z) for l = 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor, nn


@lru_cache(maxsize=16)
def _coupling(degree: int) -> Tensor:
    """Matrix that turns vec(D^(l-1) (x) R) into vec(D^l).

    Returns:
        `((2l-1)^2 * 9, (2l+1)^2)` float64.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from e3nn.o3 import wigner_3j

        c = wigner_3j(degree - 1, 1, degree, dtype=torch.float64)
    n = 2 * degree + 1
    return (n * torch.einsum("ipa,jqb->ijpqab", c, c)).reshape(-1, n * n).contiguous()


class WignerMatrices(nn.Module):
    """Wigner matrices of degrees 0 to `max_degree`."""

    def __init__(self, max_degree: int) -> None:
        """Prepare the coupling constants.

        Args:
            max_degree: highest degree l, 0 to 11.

        Raises:
            ValueError: if the degree is out of range.
        """
        super().__init__()
        if not 0 <= max_degree <= 11:
            raise ValueError(f"max_degree must be between 0 and 11, got {max_degree}")
        self.max_degree = max_degree
        for degree in range(2, max_degree + 1):
            table = _coupling(degree).to(torch.get_default_dtype())
            self.register_buffer(f"coupling_{degree}", table, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the module; the constants start again from float64, so no digit is lost."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for degree in range(2, self.max_degree + 1):
            name = f"coupling_{degree}"
            setattr(self, name, _coupling(degree).to(getattr(self, name)))
        return self

    def forward(self, rotations: Tensor) -> list[Tensor]:
        """Return D^0 to D^L of every rotation.

        Args:
            rotations: `(n, 3, 3)`, proper rotations.

        Returns:
            One `(n, 2l+1, 2l+1)` tensor per degree.
        """
        n = rotations.shape[0]
        blocks = [rotations.new_ones((n, 1, 1)), rotations][: self.max_degree + 1]
        for degree in range(2, self.max_degree + 1):
            size = 2 * degree + 1
            # Sizes are spelled out: -1 is ambiguous for no edges.
            below = blocks[-1].reshape(n, (size - 2) ** 2, 1)
            products = below * rotations.reshape(n, 1, 9)
            table = getattr(self, f"coupling_{degree}")
            flat = products.reshape(n, table.shape[0]) @ table
            blocks.append(flat.view(n, size, size))
        return blocks


def stack_blocks(blocks: list[Tensor], rows: Tensor) -> Tensor:
    """Write the blocks into one block-diagonal matrix and pick some of its rows.

    Args:
        blocks: one `(n, 2l+1, 2l+1)` tensor per degree.
        rows: `(n_rows,)` int64, rows to keep, in the order wanted.

    Returns:
        `(n, n_rows, (L+1)^2)`.
    """
    width = len(blocks) ** 2
    padded = [
        nn.functional.pad(block, (degree**2, width - (degree + 1) ** 2))
        for degree, block in enumerate(blocks)
    ]
    return torch.cat(padded, 1).index_select(1, rows)
