"""SO(2) convolution: the linear map of features seen from an edge-aligned frame.

With the edge on the y axis only turns about y are left, so degree l, order m may mix with any
other degree of the same |m|, and the pair (+m, -m) mixes like a complex number:

    y_(+m) = Wr x_(+m) - Wi x_(-m)
    y_(-m) = Wr x_(-m) + Wi x_(+m)        (eSCN, arXiv 2302.03655, equation 12)

Coefficients are kept in m-primary order: m = 0 for l = 0..L, then for each m = 1..M first +m
for l = m..L, then -m for l = m..L, and handled as one tensor per signed order, so that a layer
is a few plain matrix products. Without the imaginary weights Wi the map also commutes with
mirror images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def edge_order(max_degree: int, max_order: int) -> tuple[list[int], list[int]]:
    """Lay out the coefficients of an edge in m-primary order.

    Args:
        max_degree: highest degree L.
        max_order: highest order M kept, at most L.

    Returns:
        The index of each coefficient in the degree-primary order, l^2 + l + m, and its degree.

    Raises:
        ValueError: if M is not between 0 and L.
    """
    if not 0 <= max_order <= max_degree:
        raise ValueError(f"max_order must be between 0 and {max_degree}, got {max_order}")
    index, degrees = [], []
    for m in range(max_order + 1):
        for order in (m, -m) if m else (0,):
            for degree in range(m, max_degree + 1):
                index.append(degree * degree + degree + order)
                degrees.append(degree)
    return index, degrees


def order_sizes(max_degree: int, max_order: int) -> list[int]:
    """Number of coefficients of each signed order 0, +1, -1, .. +M, -M."""
    signed = [0, *(m for m in range(1, max_order + 1) for _ in range(2))]
    return [max_degree + 1 - m for m in signed]


class SO2Convolution(nn.Module):
    """Mixes degrees and channels of edge-aligned features, order by order."""

    def __init__(
        self,
        max_degree: int,
        max_order: int,
        in_channels: int,
        out_channels: int,
        *,
        mirror: bool = False,
    ) -> None:
        """Draw the weights.

        Args:
            max_degree: highest degree L.
            max_order: highest order M kept.
            in_channels: channels per coefficient coming in.
            out_channels: channels per coefficient going out.
            mirror: leave out the imaginary weights, so that mirror images are respected.
        """
        super().__init__()
        self.out_channels = out_channels
        self.bias = nn.Parameter(torch.zeros((max_degree + 1) * out_channels))
        self.real = nn.ParameterList()
        self.imaginary = nn.ParameterList()
        for m in range(max_order + 1):
            rows = (max_degree + 1 - m) * in_channels
            columns = (max_degree + 1 - m) * out_channels
            paired = m > 0 and not mirror
            spread = 1.0 / math.sqrt(rows * (2 if paired else 1))
            self.real.append(nn.Parameter(torch.randn(rows, columns) * spread))
            if paired:
                self.imaginary.append(nn.Parameter(torch.randn(rows, columns) * spread))

    def forward(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Apply the map.

        Args:
            parts: for each signed order 0, +1, -1, .. +M, -M one tensor
                `(n_edges, L + 1 - |m|, in_channels)`.

        Returns:
            The same list with `out_channels`.
        """
        flat = [part.flatten(1) for part in parts]
        mixed = [torch.addmm(self.bias, flat[0], self.real[0])]
        for m in range(1, len(self.real)):
            plus, minus, real = flat[2 * m - 1], flat[2 * m], self.real[m]
            if len(self.imaginary):
                imaginary = self.imaginary[m - 1]
                mixed.append(torch.addmm(plus @ real, minus, imaginary, alpha=-1.0))
                mixed.append(torch.addmm(minus @ real, plus, imaginary))
            else:
                mixed += [plus @ real, minus @ real]
        channels = self.out_channels
        return [part.view(len(part), part.shape[1] // channels, channels) for part in mixed]
