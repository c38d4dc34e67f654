"""One layer of the published eSCN: messages along edges, and how atoms take them in.

Module and weight names are the published ones, so that its weights load as they are.
Coefficients on edges are in m-primary order (see `so2_convolution.edge_order`), c is fastest.

| step | equation (eSCN, arXiv 2302.03655, section 3) |
|---|---|
| edge | e = SiLU(W2 SiLU(S[Z_j] + T[Z_i] + W1 g(d) + b1) + b2) |
| m = 0 | y_0 = W2_0 [SiLU(A_0 e + a_0) * W1_0 x_0] |
| m > 0 | y_+ = f_r(x_+) - f_i(x_-),  y_- = f_r(x_-) + f_i(x_+) |
| | f(x) = W2 [SiLU(A_m e + a_m) * W1 x], with weights of its own for f_r and f_i of each m |
| message | m_i = sum_j D^T from_grid(SiLU(to_grid(SO2(D x_j) + SO2'(D x_i)))) |
| atom | u_i = from_grid(W3 SiLU(W2 SiLU(W1 [to_grid x_i ; to_grid m_i]))) |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from egno_md.models.escn_messages import PackedMessages, messages, pack
from egno_md.models.so2_convolution import edge_order

#: Atoms whose grids are worked on at a time; they then stay in the processor's cache.
ATOMS_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class EdgeView:
    """What every layer needs to know of the edges.

    Attributes:
        source: `(n_edges,)` int64, sending atoms.
        target: `(n_edges,)` int64, receiving atoms.
        basis: `(n_edges, n_gaussians)`, Gaussians of the distances.
        into_frame: `(n_edges, n_coefficients, (L+1)^2)`, Wigner rows in m-primary order.
        numbers: `(n_atoms,)` int64, atomic numbers.
    """

    source: Tensor
    target: Tensor
    basis: Tensor
    into_frame: Tensor
    numbers: Tensor

    def part(self, start: int, length: int) -> EdgeView:
        """Return some edges in a row, without a copy.

        Args:
            start: the first.
            length: how many.
        """
        rows = (self.source, self.target, self.basis, self.into_frame)
        source, target, basis, into_frame = (t.narrow(0, start, length) for t in rows)
        return EdgeView(source, target, basis, into_frame, self.numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Grids:
    """Matrices between coefficients and grids on the sphere.

    Attributes:
        edge_to: `(n_points, n_coefficients)`, columns in m-primary order.
        edge_from: `(n_coefficients, n_points)`.
        atom_to: `(n_points', (L+1)^2)`.
        atom_from: `((L+1)^2, n_points')`.
    """

    edge_to: Tensor
    edge_from: Tensor
    atom_to: Tensor
    atom_from: Tensor


class EdgeBlock(nn.Module):
    """Invariants of an edge from its length and its two elements."""

    def __init__(self, n_gaussians: int, edge_channels: int, n_elements: int) -> None:
        """Draw the weights.

        Args:
            n_gaussians: functions of the distance.
            edge_channels: channels of an edge.
            n_elements: rows of the tables of elements.
        """
        super().__init__()
        self.fc1_dist = nn.Linear(n_gaussians, edge_channels)
        self.source_embedding = nn.Embedding(n_elements, edge_channels)
        self.target_embedding = nn.Embedding(n_elements, edge_channels)
        self.fc1_edge_attr = nn.Linear(edge_channels, edge_channels)
        nn.init.uniform_(self.source_embedding.weight, -1e-3, 1e-3)
        nn.init.uniform_(self.target_embedding.weight, -1e-3, 1e-3)

    def forward(self, edges: EdgeView) -> Tensor:
        """Return `(n_edges, edge_channels)`."""
        sent = self.source_embedding(edges.numbers).index_select(0, edges.source)
        kept = self.target_embedding(edges.numbers).index_select(0, edges.target)
        hidden = silu(self.fc1_dist(edges.basis) + sent + kept)
        return silu(self.fc1_edge_attr(hidden))


class OrderConvolution(nn.Module):
    """Mixes degrees and channels of one pair of orders, +m and -m."""

    def __init__(self, width: int, hidden_channels: int, edge_channels: int) -> None:
        """Draw the weights.

        Args:
            width: degrees times channels of each of the two orders.
            hidden_channels: channels between.
            edge_channels: channels of the edge invariants.
        """
        super().__init__()
        self.fc1_dist = nn.Linear(edge_channels, 2 * hidden_channels)
        self.fc1_r = nn.Linear(width, hidden_channels, bias=False)
        self.fc2_r = nn.Linear(hidden_channels, width, bias=False)
        self.fc1_i = nn.Linear(width, hidden_channels, bias=False)
        self.fc2_i = nn.Linear(hidden_channels, width, bias=False)

    def forward(self, parts: Tensor, edge: Tensor) -> Tensor:
        """Map `(n_edges, 2, width)`, +m then -m, to the same shape.

        Args:
            parts: the coefficients.
            edge: `(n_edges, edge_channels)`.
        """
        gates = silu(self.fc1_dist(edge)).view(len(edge), 2, 1, self.fc1_r.out_features)
        real = self.fc2_r(gates[:, 0] * self.fc1_r(parts))
        imaginary = self.fc2_i(gates[:, 1] * self.fc1_i(parts))
        plus = real[:, 0] - imaginary[:, 1]
        minus = real[:, 1] + imaginary[:, 0]
        return torch.stack((plus, minus), 1)


class SO2Block(nn.Module):
    """SO(2) convolution of low rank, gated by the edge invariants."""

    def __init__(
        self,
        max_degree: int,
        max_order: int,
        channels: int,
        hidden_channels: int,
        edge_channels: int,
    ) -> None:
        """Draw the weights; the arguments are those of `ESCN`."""
        super().__init__()
        width = (max_degree + 1) * channels
        self.fc1_dist0 = nn.Linear(edge_channels, hidden_channels)
        self.fc1_m0 = nn.Linear(width, hidden_channels, bias=False)
        self.fc2_m0 = nn.Linear(hidden_channels, width, bias=False)
        self.so2_conv = nn.ModuleList(
            OrderConvolution((max_degree + 1 - m) * channels, hidden_channels, edge_channels)
            for m in range(1, max_order + 1)
        )
        pairs = [2 * (max_degree + 1 - m) for m in range(1, max_order + 1)]
        self.sizes = [max_degree + 1, *pairs]

    def forward(self, parts: Tensor, edge: Tensor) -> Tensor:
        """Map `(n_edges, n_coefficients, channels)`, m-primary, to the same shape.

        Args:
            parts: the coefficients.
            edge: `(n_edges, edge_channels)`.
        """
        n, _, channels = parts.shape
        first, *pairs = torch.split(parts, self.sizes, 1)
        hidden = silu(self.fc1_dist0(edge)) * self.fc1_m0(first.flatten(1))
        mixed = [self.fc2_m0(hidden).view(n, self.sizes[0], channels)]
        for size, convolution, pair in zip(self.sizes[1:], self.so2_conv, pairs, strict=True):
            flat = pair.reshape(n, 2, size // 2 * channels)
            mixed.append(convolution(flat, edge).view(n, size, channels))
        return torch.cat(mixed, 1)


class MessageBlock(nn.Module):
    """Messages along edges and their sum on atoms."""

    def __init__(
        self,
        max_degree: int,
        max_order: int,
        channels: int,
        hidden_channels: int,
        edge_channels: int,
        n_gaussians: int,
        n_elements: int,
    ) -> None:
        """Draw the weights; the arguments are those of `ESCN`."""
        super().__init__()
        sizes = (max_degree, max_order, channels, hidden_channels, edge_channels)
        self.edge_block = EdgeBlock(n_gaussians, edge_channels, n_elements)
        self.so2_block_source = SO2Block(*sizes)
        self.so2_block_target = SO2Block(*sizes)
        self.packed: PackedMessages | None = None
        self.register_load_state_dict_post_hook(_forget_packed)  # type: ignore[no-untyped-call]

    def freeze(self) -> None:
        """Stack the weights once and for all; they then no longer learn."""
        self.requires_grad_(False)
        self.packed = pack(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the module; stacked weights are stacked anew when they are needed."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.packed = None
        return self

    def forward(
        self, features: Tensor, edges: EdgeView, grids: Grids, scalars_only: bool = False
    ) -> Tensor:
        """Return what each atom receives, `(n_atoms, (L+1)^2, channels)`.

        Args:
            features: `(n_atoms, (L+1)^2, channels)`.
            edges: the edges.
            grids: grid matrices.
            scalars_only: whether all features but those of l = 0 are zero.
        """
        packed = pack(self) if self.packed is None else self.packed
        return messages(self, packed, features, edges, grids, scalars_only=scalars_only)


def _forget_packed(block: nn.Module, _: object) -> None:
    """Stacked weights no longer hold once others are loaded."""
    cast(MessageBlock, block).packed = None


class LayerBlock(nn.Module):
    """A layer: messages, then a network at every point of a grid around each atom."""

    def __init__(
        self,
        max_degree: int,
        max_order: int,
        channels: int,
        hidden_channels: int,
        edge_channels: int,
        n_gaussians: int,
        n_elements: int,
    ) -> None:
        """Draw the weights; the arguments are those of `ESCN`."""
        super().__init__()
        self.message_block = MessageBlock(
            max_degree,
            max_order,
            channels,
            hidden_channels,
            edge_channels,
            n_gaussians,
            n_elements,
        )
        self.fc1_sphere = nn.Linear(2 * channels, channels, bias=False)
        self.fc2_sphere = nn.Linear(channels, channels, bias=False)
        self.fc3_sphere = nn.Linear(channels, channels, bias=False)

    def forward(
        self, features: Tensor, edges: EdgeView, grids: Grids, scalars_only: bool = False
    ) -> Tensor:
        """Map `(n_atoms, (L+1)^2, channels)` to what is added to it, the same shape.

        Args:
            features: `(n_atoms, (L+1)^2, channels)`.
            edges: the edges.
            grids: grid matrices.
            scalars_only: whether all features but those of l = 0 are zero.
        """
        received = self.message_block(features, edges, grids, scalars_only)
        # W1 and W3 have no bias and commute with the grid, which has many more rows.
        mixed = self.fc1_sphere(torch.cat((features, received), 2))
        bent = [
            grids.atom_from @ silu(self.fc2_sphere(silu(grids.atom_to @ part)))
            for part in torch.split(mixed, ATOMS_AT_ONCE)
        ]
        out: Tensor = self.fc3_sphere(torch.cat(bent))
        return out


class PointReadout(nn.Module):
    """A network of the values at one point of the sphere around an atom, to one number."""

    def __init__(self, channels: int) -> None:
        """Draw the weights.

        Args:
            channels: channels of the atom features.
        """
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.fc2 = nn.Linear(channels, channels)
        self.fc3 = nn.Linear(channels, 1, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Map `(n_atoms, n_points, channels)` to `(n_atoms, n_points)`."""
        out: Tensor = self.fc3(silu(self.fc2(silu(self.fc1(values)))))
        return out[..., 0]


def degree_primary(max_degree: int, max_order: int) -> list[int]:
    """Where each coefficient of the degree-by-degree order stands in the m-primary one."""
    index, _ = edge_order(max_degree, max_order)
    return sorted(range(len(index)), key=index.__getitem__)
