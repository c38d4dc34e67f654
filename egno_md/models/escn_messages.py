"""Messages of the published eSCN, fast: the same numbers with the work done in few products.

| plain | here |
|---|---|
| bring coefficients to m-primary order and back | rows of Wigner and grid matrices in that order |
| four products per pair of orders and atom of an edge | sources, targets, real, imaginary stacked |
| all edges through every step | so many edges at a time that they stay in the cache |
| the first layer like the others | only l = 0 comes in, so only m = 0 goes out |

With a_r = g_r * W1_r x and a_i = g_i * W1_i x of the two atoms s and t of an edge, the outputs of
a pair of orders are one product each,

    y_+ = [W2_r^s, W2_i^s, W2_r^t, W2_i^t] (a_r^s+, -a_i^s-, a_r^t+, -a_i^t-)
    y_- = [W2_r^s, W2_i^s, W2_r^t, W2_i^t] (a_r^s-,  a_i^s+, a_r^t-,  a_i^t+)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import Tensor
from torch.nn.functional import silu

if TYPE_CHECKING:
    from egno_md.models.escn_layer import EdgeView, Grids, MessageBlock, OrderConvolution

#: Edges worked on at a time.
EDGES_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class PackedOrder:
    """Weights of one order, ready for products from the right.

    Attributes:
        first: of source and target, `(width, hidden)` each; for m > 0 real parts of both, then
            imaginary parts of both.
        second: `(2 hidden, width)`, for m > 0 `(4 hidden, width)`.
    """

    first: tuple[Tensor, ...]
    second: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PackedMessages:
    """Weights of a layer's messages.

    Attributes:
        gate_weight: `(edge_channels, n_gates)`, gates of all orders in the order they are used.
        gate_bias: `(n_gates,)`.
        orders: weights of m = 0, 1, ...
        hidden: hidden channels.
        sizes: coefficients of each signed order.
    """

    gate_weight: Tensor
    gate_bias: Tensor
    orders: tuple[PackedOrder, ...]
    hidden: int
    sizes: tuple[int, ...]


def pack(block: MessageBlock) -> PackedMessages:
    """Stack the weights of a layer's messages.

    Args:
        block: where they are.

    Returns:
        Copies; they carry gradients where the weights do.
    """
    both = (block.so2_block_source, block.so2_block_target)
    gates = [b.fc1_dist0 for b in both]
    first = tuple(b.fc1_m0.weight.T.contiguous() for b in both)
    orders = [PackedOrder(first, torch.cat([b.fc2_m0.weight.T for b in both]))]
    for pair in zip(both[0].so2_conv, both[1].so2_conv, strict=True):
        halves = cast("tuple[OrderConvolution, OrderConvolution]", pair)
        gates += [c.fc1_dist for c in halves]
        real = tuple(c.fc1_r.weight.T.contiguous() for c in halves)
        imaginary = tuple(c.fc1_i.weight.T.contiguous() for c in halves)
        second = [w.weight.T for c in halves for w in (c.fc2_r, c.fc2_i)]
        orders.append(PackedOrder(real + imaginary, torch.cat(second)))
    degree = both[0].sizes[0] - 1
    signed = [degree + 1 - m for m in range(1, len(orders)) for _ in range(2)]
    return PackedMessages(
        torch.cat([g.weight for g in gates]).T.contiguous(),
        torch.cat([g.bias for g in gates]),
        tuple(orders),
        both[0].fc1_m0.out_features,
        (degree + 1, *signed),
    )


def convolve(packed: PackedMessages, sent: Tensor, kept: Tensor, gates: Tensor) -> Tensor:
    """SO(2) convolutions of both atoms of each edge, and their sum.

    Args:
        packed: the weights.
        sent: `(n_edges, n_coefficients, channels)`, of the source, m-primary.
        kept: the same of the target.
        gates: `(n_edges, n_gates)`.

    Returns:
        `(n_edges, n_coefficients, channels)`.
    """
    n, total, channels = sent.shape
    widths = [size * channels for size in packed.sizes]
    sources = torch.split(sent.reshape(n, total * channels), widths, 1)
    targets = torch.split(kept.reshape(n, total * channels), widths, 1)
    zeroth, *higher = packed.orders
    parts = torch.split(gates, [2 * packed.hidden, *[4 * packed.hidden] * len(higher)], 1)
    hidden = torch.cat((sources[0] @ zeroth.first[0], targets[0] @ zeroth.first[1]), 1)
    mixed = [(hidden * parts[0]) @ zeroth.second]
    for m, order in enumerate(higher, 1):
        plus, minus = 2 * m - 1, 2 * m
        mixed += _pair(
            order, (sources[plus], targets[plus]), (sources[minus], targets[minus]), parts[m]
        )
    return torch.cat(mixed, 1).view(n, total, channels)


def _pair(
    order: PackedOrder, plus: Sequence[Tensor], minus: Sequence[Tensor], gates: Tensor
) -> list[Tensor]:
    """Outputs of orders +m and -m; inputs are those of source and target, `(n_edges, width)`."""
    real, imaginary = order.first[:2], order.first[2:]
    above, below = [], []
    for atom in range(2):
        above += [plus[atom] @ real[atom], -(minus[atom] @ imaginary[atom])]
        below += [minus[atom] @ real[atom], plus[atom] @ imaginary[atom]]
    return [(torch.cat(side, 1) * gates) @ order.second for side in (above, below)]


def messages(
    block: MessageBlock,
    packed: PackedMessages,
    features: Tensor,
    edges: EdgeView,
    grids: Grids,
    *,
    scalars_only: bool,
) -> Tensor:
    """What each atom receives.

    Args:
        block: gives the invariants of the edges.
        packed: its other weights.
        features: `(n_atoms, (L+1)^2, channels)`.
        edges: the edges.
        grids: grid matrices.
        scalars_only: whether all features but those of l = 0 are zero, as in the first layer.

    Returns:
        `(n_atoms, (L+1)^2, channels)`.
    """
    received = torch.zeros_like(features)
    work = _from_scalars if scalars_only else _from_features
    tables = _zonal(packed, grids) if scalars_only else (grids.edge_to, grids.edge_from)
    n_edges = len(edges.source)
    for start in range(0, n_edges, EDGES_AT_ONCE):
        part = edges.part(start, min(EDGES_AT_ONCE, n_edges - start))
        sums = work(packed, block.edge_block(part), features, part, tables)
        received = received.index_add_(0, part.target, sums)
    return received


def _from_features(
    packed: PackedMessages,
    edge: Tensor,
    features: Tensor,
    edges: EdgeView,
    tables: tuple[Tensor, Tensor],
) -> Tensor:
    """Messages of some edges, `(n_edges, (L+1)^2, channels)`."""
    gates = silu(torch.addmm(packed.gate_bias, edge, packed.gate_weight))
    sent = torch.bmm(edges.into_frame, features.index_select(0, edges.source))
    kept = torch.bmm(edges.into_frame, features.index_select(0, edges.target))
    to_grid, from_grid = tables
    bent = from_grid @ silu(to_grid @ convolve(packed, sent, kept, gates))
    return torch.bmm(edges.into_frame.transpose(1, 2), bent)


def _zonal(packed: PackedMessages, grids: Grids) -> tuple[Tensor, Tensor]:
    """Grid matrices of m = 0: one longitude stands for all, as the values are the same there.

    Returns:
        `(2 (L+1), L+1)` and `(L+1, 2 (L+1))`.
    """
    n_zonal = packed.sizes[0]
    n_longitudes = len(grids.edge_to) // (2 * n_zonal)
    back = grids.edge_from[:n_zonal].unflatten(1, (2 * n_zonal, n_longitudes))  # type: ignore[no-untyped-call]
    return grids.edge_to[::n_longitudes, :n_zonal], back.sum(2)


def _from_scalars(
    packed: PackedMessages,
    edge: Tensor,
    features: Tensor,
    edges: EdgeView,
    tables: tuple[Tensor, Tensor],
) -> Tensor:
    """The same where only l = 0 comes in: it does not turn, and all stays at m = 0."""
    order, width = packed.orders[0], features.shape[2]
    n_gates, n_zonal = 2 * packed.hidden, packed.sizes[0]
    gates = torch.addmm(packed.gate_bias[:n_gates], edge, packed.gate_weight[:, :n_gates])
    sent = features[:, 0].index_select(0, edges.source) @ order.first[0][:width]
    kept = features[:, 0].index_select(0, edges.target) @ order.first[1][:width]
    mixed = (torch.cat((sent, kept), 1) * silu(gates)) @ order.second
    to_grid, from_grid = tables
    bent = from_grid @ silu(to_grid @ mixed.view(len(edge), n_zonal, width))
    return torch.bmm(edges.into_frame[:, :n_zonal].transpose(1, 2), bent)
