"""SO(2) convolution: the linear map of features seen from an edge-aligned frame.

With the edge on the y axis only turns about y are left, so degree l, order m may mix with any
other degree of the same |m|, and the pair (+m, -m) mixes like a complex number:

    y_(+m) = Wr x_(+m) - Wi x_(-m)
    y_(-m) = Wr x_(-m) + Wi x_(+m)        (eSCN, arXiv 2302.03655, equation 12)

Coefficients are kept in m-primary order: m = 0 for l = 0..L, then for each m = 1..M first +m
for l = m..L, then -m for l = m..L. Each m is then one contiguous slice and one matrix product.
Without the imaginary weights Wi the map also commutes with mirror images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def edge_order(max_degree: int, max_order: int) -> tuple[list[int], list[int], list[int]]:
    """Lay out the coefficients of an edge in m-primary order.

    Args:
        max_degree: highest degree L.
        max_order: highest order M kept, at most L.

    Returns:
        Three lists of equal length: index of each coefficient in the degree-primary order
        (l^2 + l + m), its degree l, and its row in the list of (|m|, l) pairs.

    Raises:
        ValueError: if M is not between 0 and L.
    """
    if not 0 <= max_order <= max_degree:
        raise ValueError(f"max_order must be between 0 and {max_degree}, got {max_order}")
    index, degrees, pairs, first = [], [], [], 0
    for m in range(max_order + 1):
        for sign in (1, -1) if m else (1,):
            for offset, degree in enumerate(range(m, max_degree + 1)):
                index.append(degree * degree + degree + sign * m)
                degrees.append(degree)
                pairs.append(first + offset)
        first += max_degree + 1 - m
    return index, degrees, pairs


def n_edge_pairs(max_degree: int, max_order: int) -> int:
    """Number of (|m|, l) pairs with |m| <= M and l <= L."""
    return sum(max_degree + 1 - m for m in range(max_order + 1))


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
        self.max_degree, self.max_order = max_degree, max_order
        self.in_channels, self.out_channels = in_channels, out_channels
        self.mirror = mirror
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

    def forward(self, features: Tensor) -> list[Tensor]:
        """Apply the map.

        Args:
            features: `(n_edges, n_coefficients, in_channels)` in m-primary order.

        Returns:
            One `(n_edges, n, out_channels)` tensor for m = 0, then for each m > 0 one for
            both signs, or with `mirror` one for +m and one for -m; concatenated along axis 1
            they are in m-primary order again.
        """
        n_edges = features.shape[0]
        flat = features.reshape(n_edges, features.shape[1] * features.shape[2])
        width = (self.max_degree + 1) * self.in_channels
        parts = [torch.addmm(self.bias, flat[:, :width], self.real[0])]
        start = width
        for m in range(1, self.max_order + 1):
            width = (self.max_degree + 1 - m) * self.in_channels
            real = self.real[m]
            if self.mirror:
                for _ in range(2):
                    parts.append(flat[:, start : start + width] @ real)
                    start += width
                continue
            imaginary = self.imaginary[m - 1]
            both = torch.cat((torch.cat((real, imaginary), 1), torch.cat((-imaginary, real), 1)), 0)
            parts.append(flat[:, start : start + 2 * width] @ both)
            start += 2 * width
        channels = self.out_channels
        return [part.view(n_edges, part.shape[1] // channels, channels) for part in parts]
