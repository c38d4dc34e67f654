"""Rotation-equivariant layers that act on atoms: features `(n_atoms, (L+1)^2, channels)`.

The middle axis holds spherical-harmonic coefficients degree by degree. Only degree 0 is
invariant; the other degrees may be mixed over channels, scaled by invariants, and squared
into invariants, and that is all these layers do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def degree_of_each(max_degree: int) -> Tensor:
    """Degree of each of the (L+1)^2 coefficients, int64."""
    degrees = torch.arange(max_degree + 1)
    return degrees.repeat_interleave(2 * degrees + 1)


class DegreeLinear(nn.Module):
    """Mixes channels, with one matrix per degree and a bias for degree 0."""

    #: The first axis of the weight counts matrices; optimisers of matrices ask.
    stacked_first = True

    def __init__(
        self, max_degree: int, in_channels: int, out_channels: int, *, bias: bool = True
    ) -> None:
        """Draw the weights.

        Args:
            max_degree: highest degree L.
            in_channels: channels coming in.
            out_channels: channels going out.
            bias: whether degree 0 gets a bias.
        """
        super().__init__()
        spread = 1.0 / math.sqrt(in_channels)
        self.weight = nn.Parameter(torch.randn(max_degree + 1, in_channels, out_channels) * spread)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("degrees", degree_of_each(max_degree), persistent=False)
        self.degrees: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Map `(n, (L+1)^2, in_channels)` to `(n, (L+1)^2, out_channels)`."""
        weight = self.weight.index_select(0, self.degrees)
        by_coefficient = features.transpose(0, 1)
        if self.bias is None:
            return torch.bmm(by_coefficient, weight).transpose(0, 1)
        rest = len(self.degrees) - 1
        bias = nn.functional.pad(self.bias[None, None], (0, 0, 0, 0, 0, rest))
        return torch.baddbmm(bias, by_coefficient, weight).transpose(0, 1)


class DegreeNorm(nn.Module):
    """Divides the features of an atom by their root mean square over degrees and channels.

    Each degree counts equally whatever its number of orders; degree 0 is centred first.
    """

    def __init__(self, max_degree: int, channels: int, epsilon: float = 1e-5) -> None:
        """Start as the plain norm.

        Args:
            max_degree: highest degree L.
            channels: number of channels.
            epsilon: added to the mean square.
        """
        super().__init__()
        self.epsilon = epsilon
        self.scale = nn.Parameter(torch.ones(max_degree + 1, channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        degrees = degree_of_each(max_degree)
        self.register_buffer("degrees", degrees, persistent=False)
        self.degrees: Tensor
        # Whole numbers, so that a change of dtype loses nothing.
        sizes = (2 * degrees + 1).to(torch.get_default_dtype()) * (max_degree + 1)
        self.register_buffer("sizes", sizes, persistent=False)
        self.sizes: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Normalise `(n, (L+1)^2, channels)`."""
        mean = features[:, 0].mean(-1)[:, None, None]
        centred = features - nn.functional.pad(mean, (0, 0, 0, features.shape[1] - 1))
        power = (centred.square().mean(-1) / self.sizes).sum(-1)
        size = torch.rsqrt(power + self.epsilon)[:, None, None]
        shift = nn.functional.pad(self.shift[None], (0, 0, 0, features.shape[1] - 1))
        return torch.addcmul(shift, centred * size, self.scale.index_select(0, self.degrees))


def degree_power(features: Tensor) -> Tensor:
    """Mean square of every degree and channel: invariants that see angles.

    Args:
        features: `(n, (L+1)^2, channels)`.

    Returns:
        `(n, L * channels)`, degrees 1 to L.
    """
    max_degree = math.isqrt(features.shape[1]) - 1
    sizes = [2 * k + 1 for k in range(max_degree + 1)]
    degrees = torch.split(features.square(), sizes, 1)
    powers = [squares.mean(1) for squares in degrees[1:]]
    return torch.cat(powers, 1) if powers else features.new_zeros((features.shape[0], 0))


class DegreeGate(nn.Module):
    """Non-linear step on atoms: a network of the invariants makes scalars and gates."""

    def __init__(self, max_degree: int, channels: int, hidden_channels: int) -> None:
        """Draw the weights.

        Args:
            max_degree: highest degree L.
            channels: channels in and out.
            hidden_channels: channels between.
        """
        super().__init__()
        self.max_degree, self.hidden = max_degree, hidden_channels
        self.enter = DegreeLinear(max_degree, channels, hidden_channels)
        self.invariants = nn.Linear(
            hidden_channels * (max_degree + 1), hidden_channels * (max_degree + 1)
        )
        self.leave = DegreeLinear(max_degree, hidden_channels, channels)
        degrees = degree_of_each(max_degree)[1:] - 1
        self.register_buffer("gate_rows", degrees, persistent=False)
        self.gate_rows: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Map `(n, (L+1)^2, channels)` to the same shape."""
        inner = self.enter(features)
        seen = torch.cat((inner[:, 0], degree_power(inner)), 1)
        out = self.invariants(seen).view(-1, self.max_degree + 1, self.hidden)
        scalars, gates = out.split([1, self.max_degree], 1)
        gates = torch.sigmoid(gates).index_select(1, self.gate_rows)
        _, turning = inner.split([1, len(self.gate_rows)], 1)
        leaving: Tensor = self.leave(torch.cat((nn.functional.silu(scalars), turning * gates), 1))
        return leaving
