"""The graph layer of the published EGNO and the small networks in it.

Parameters have the names and layout of the published code. The first matrix of the message
network is applied to nodes and edge features separately and summed on the edges: the same sum
in another order, with far fewer multiplications than on the joined features of every edge.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Largest component of a position update per layer, in units of the positions.
LARGEST_STEP: Final = 100.0


def columns(weight: Tensor, *widths: int) -> tuple[Tensor, ...]:
    """Columns of a weight matrix that belong to consecutive parts of its input.

    Args:
        weight: `(outputs, sum(widths))`.
        widths: widths of the parts.

    Returns:
        one `(outputs, width)` view per part.
    """
    ends = [sum(widths[: i + 1]) for i in range(len(widths))]
    return tuple(weight[:, end - width : end] for end, width in zip(ends, widths, strict=True))


class Perceptron(nn.Module):
    """Two linear maps with an activation between, under the published name `mlp`."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, *, flat: bool, last_activation: bool = False
    ) -> None:
        """Make the layers.

        Args:
            inputs: width of the input.
            hidden: width between; four times as much when `flat`.
            outputs: width of the output.
            flat: tanh and a wide middle instead of SiLU.
            last_activation: whether the activation also ends it.
        """
        super().__init__()
        width = 4 * hidden if flat else hidden
        act = nn.Tanh() if flat else nn.SiLU()
        layers: list[nn.Module] = [nn.Linear(inputs, width), act, nn.Linear(width, outputs)]
        self.mlp = nn.Sequential(*layers, act) if last_activation else nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        """Apply it to `(..., inputs)`."""
        out: Tensor = self.mlp(values)
        return out

    @property
    def first(self) -> nn.Linear:
        """The first linear map."""
        linear = self.mlp[0]
        assert isinstance(linear, nn.Linear)  # for the type checker: made so above
        return linear

    def rest(self, values: Tensor) -> Tensor:
        """Apply everything but the first linear map."""
        for layer in list(self.mlp)[1:]:
            values = layer(values)
        return values


class EdgeMessage(nn.Module):
    """Message network `phi_e` on the squared distance, two nodes and the edge features."""

    def __init__(self, in_edge_nf: int, hidden_nf: int, *, flat: bool, norm: bool) -> None:
        """Make the network; its weights lie under the published name `scalar_net`."""
        super().__init__()
        self.widths = (1, hidden_nf, hidden_nf, in_edge_nf)
        self.norm = norm
        self.scalar_net = Perceptron(
            sum(self.widths), hidden_nf, hidden_nf, flat=flat, last_activation=True
        )

    def forward(
        self, squared: Tensor, h: Tensor, row: Tensor, col: Tensor, edge_features: Tensor
    ) -> Tensor:
        """Messages of all edges at all times.

        Args:
            squared: `(n_times, n_edges, 1)` squared distances.
            h: `(n_times, n_nodes, hidden_nf)`.
            row: `(n_edges,)` receivers.
            col: `(n_edges,)` senders.
            edge_features: `(n_edges, in_edge_nf)`, the same at all times.

        Returns:
            `(n_times, n_edges, hidden_nf)`.
        """
        if self.norm:
            # As published: it leaves only the sign, so messages no longer know the distance.
            squared = functional.normalize(squared, dim=-1)
        first = self.scalar_net.first
        of_distance, of_receiver, of_sender, of_edge = columns(first.weight, *self.widths)
        summed = functional.linear(h, of_receiver).index_select(1, row)
        summed = summed + functional.linear(h, of_sender).index_select(1, col)
        summed = torch.addcmul(summed, squared, of_distance[:, 0])
        fixed = functional.linear(edge_features, of_edge, first.bias)
        return self.scalar_net.rest(summed + fixed)


class GraphLayer(nn.Module):
    """One equivariant graph layer; the time points do not see each other in it."""

    def __init__(
        self, in_edge_nf: int, hidden_nf: int, *, with_v: bool, flat: bool, norm: bool
    ) -> None:
        """Make the four networks of a layer under their published names."""
        super().__init__()
        self.edge_message_net = EdgeMessage(in_edge_nf, hidden_nf, flat=flat, norm=norm)
        self.coord_net = Perceptron(hidden_nf, hidden_nf, 1, flat=flat)
        self.node_v_net = Perceptron(hidden_nf, hidden_nf, 1, flat=flat) if with_v else None
        self.node_net = Perceptron(2 * hidden_nf, hidden_nf, hidden_nf, flat=flat)

    def forward(
        self,
        x: Tensor,
        v: Tensor,
        h: Tensor,
        edges: tuple[Tensor, Tensor],
        edge_features: Tensor,
        degree: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Move the nodes and update their features.

        Args:
            x: `(n_times, n_nodes, 3)` positions.
            v: same shape, velocities.
            h: `(n_times, n_nodes, hidden_nf)`.
            edges: receivers and senders, `(n_edges,)` each.
            edge_features: `(n_edges, in_edge_nf)`.
            degree: `(n_nodes, 1)`, edges per receiver, at least 1.

        Returns:
            new positions and new features.
        """
        row, col = edges
        r = x.index_select(1, row) - x.index_select(1, col)
        squared = r.square().sum(-1, keepdim=True)
        message = self.edge_message_net(squared, h, row, col, edge_features)
        pull = torch.zeros_like(x).index_add(1, row, r * self.coord_net(message)) / degree
        new_x = x + pull.clamp(-LARGEST_STEP, LARGEST_STEP)
        if self.node_v_net is not None:
            new_x = new_x + self.node_v_net(h) * v
        received = torch.zeros_like(h).index_add(1, row, message.to(h.dtype))
        first = self.node_net.first
        own, gathered = columns(first.weight, h.shape[-1], h.shape[-1])
        summed = functional.linear(h, own, first.bias)
        return new_x, self.node_net.rest(summed + functional.linear(received, gathered))
