"""Messages of the eSCN for dynamics: what atoms send along edges, seen from the edge.

| step | equation |
|---|---|
| edge | z_ij = D_ij (A x_j + B x_i) * radial(d_ij, Z_i, Z_j) |
| message | m_ij = env(d_ij) D_ij^T SO2'( gate( SO2(z_ij) ) ) |
| atom | C sum_j m_ij / sqrt(typical neighbours) |

In the edge frame all coefficients with m = 0 are invariant, so the gate of degree l on an edge
is the sigmoid of its own m = 0 coefficient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from egno_md.models.degree_layers import DegreeLinear
from egno_md.models.edge_blocks import EdgeGeometry
from egno_md.models.so2_convolution import SO2Convolution, order_sizes


class EdgeMessage(nn.Module):
    """Messages along edges and their sum on atoms."""

    def __init__(
        self,
        max_degree: int,
        max_order: int,
        channels: int,
        hidden_channels: int,
        radial_hidden: int,
        mirror: bool,
        neighbours: float,
    ) -> None:
        """Draw the weights; the arguments are those of `ESCNMD`."""
        super().__init__()
        self.hidden = hidden_channels
        self.rescale = 1.0 / math.sqrt(neighbours)
        self.mix_source = DegreeLinear(max_degree, channels, hidden_channels)
        self.mix_target = DegreeLinear(max_degree, channels, hidden_channels, bias=False)
        self.pairs = [max_degree + 1 - m for m in range(max_order + 1)]
        self.radial = nn.Linear(radial_hidden, sum(self.pairs) * hidden_channels)
        nn.init.ones_(self.radial.bias)
        sizes = (max_degree, max_order, hidden_channels, hidden_channels)
        self.first = SO2Convolution(*sizes, mirror=mirror)
        self.second = SO2Convolution(*sizes, mirror=mirror)
        self.mix_out = DegreeLinear(max_degree, hidden_channels, channels, bias=False)
        self.sizes = order_sizes(max_degree, max_order)

    def shares(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What atoms send, and what they add to all they are sent.

        Args:
            features: `(n, (L+1)^2, channels)`.

        Returns:
            Two tensors `(n, (L+1)^2, hidden_channels)`.
        """
        return self.mix_source(features), self.mix_target(features)

    def received(self, sent: Tensor, kept: Tensor, block: EdgeGeometry) -> Tensor:
        """Sum of the messages to each atom of a block.

        Args:
            sent: `(n_edges, (L+1)^2, hidden_channels)`, what the atom at the start of each edge
                sends.
            kept: `(n_block, (L+1)^2, hidden_channels)`, what the block's atoms add.
            block: the edges.

        Returns:
            `(n_block, (L+1)^2, hidden_channels)`.
        """
        # Sizes are spelled out: there may be no edges.
        seen = sent + kept.index_select(0, block.target)
        weights = self.radial(block.invariants)
        weights = weights.view(len(block.source), sum(self.pairs), self.hidden)
        by_order = torch.split(weights, self.pairs, 1)
        parts = torch.split(torch.bmm(block.into_frame, seen), self.sizes, 1)
        # Part k holds order +-m with m = (k + 1) // 2.
        parts = self.first([part * by_order[(k + 1) // 2] for k, part in enumerate(parts)])
        gates = torch.sigmoid(parts[0])
        parts = self.second([part * gates[:, (k + 1) // 2 :] for k, part in enumerate(parts)])
        messages = torch.bmm(block.out_of_frame, torch.cat(parts, 1))
        return torch.zeros_like(kept).index_add(0, block.target, messages)

    def mixed(self, received: Tensor) -> Tensor:
        """What atoms make of the sums of their messages, `(n, (L+1)^2, channels)`."""
        out: Tensor = self.mix_out(received * self.rescale)
        return out
