"""EGNO as published (Xu et al. 2024): all future frames of a trajectory in one forward pass.

For the benchmarks of the paper and for its weights: names and layout of the parameters are
those of the published code (MinkaiXu/EGNO), so a published `state_dict` loads as it is. For
molecular dynamics use the Hamiltonian EGNO: here time is an index, the velocities that come
out are not trained, and the initial state is not one of the frames.

With `P` time points, `R` nodes (those of all graphs of a batch, one after another), edges
`j -> i`, centre `c` of each graph and `tau(p)` a sinusoidal embedding of the index `p`:

| part | equation |
|---|---|
| start | `x = x0, v = v0, h = W [s, tau(p)] + b` at every `p` |
| each layer, over time | `h += LeakyReLU(K h)`, then `[x - c, v] += K' [x - c, v]` |
| message | `m_ij = phi_e([r^2, h_i, h_j, e_ij])`, `r = x_i - x_j` |
| position | `x_i += phi_v(h_i) v_i + clamp(mean_j r phi_x(m_ij), -100, 100)` |
| features | `h_i = phi_h([h_i, sum_j m_ij])`, without a residual |

The graph and its edge features are those of the initial state at all times. The features of
the last layer reach neither positions nor velocities: its `phi_h` gets no gradient from them.

Two rearrangements make it about 1.5 times as fast as the published code and change nothing
but rounding: the first matrix of `phi_e` is applied to nodes and edge features separately and
summed on the edges, and the Fourier transforms are small real matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from egno_md.models.egno_layer import GraphLayer, columns
from egno_md.models.temporal_convolution import FeatureConvolution, VectorConvolution

#: Constructor arguments of the published model and its defaults, in its own words.
PUBLISHED_DEFAULTS: Final[Mapping[str, Any]] = {
    "with_v": False,
    "flat": False,
    "norm": False,
    "use_time_conv": True,
    "num_modes": 2,
    "num_timesteps": 8,
    "time_emb_dim": 32,
}


def time_embedding(n_times: int, width: int) -> Tensor:
    """Sinusoidal embedding of the time indices 0, 1, ..., n_times - 1.

    Args:
        n_times: number of time points.
        width: numbers per time point; an odd width ends with a zero.

    Returns:
        `(n_times, width)` float32: sines, then cosines, of frequencies from 1 to 1e-4.

    Raises:
        ValueError: if the width is negative, 2 or 3 (which leave one frequency, so no range).
    """
    if width < 0 or width in (2, 3):
        raise ValueError(f"time_emb_dim must be 0, 1, or at least 4, got {width}")
    half = width // 2
    # In float32 on purpose, step by step as published: the rounding is part of the weights.
    rate = math.log(10000) / (half - 1)
    frequency = torch.exp(torch.arange(half, dtype=torch.float32) * -rate)
    angle = torch.arange(n_times, dtype=torch.float32)[:, None] * frequency[None, :]
    return functional.pad(torch.cat((torch.sin(angle), torch.cos(angle)), -1), (0, width % 2))


def graph_centres(positions: Tensor, graph: Tensor, n_graphs: int) -> Tensor:
    """Centre of each graph, unweighted, given back for each of its nodes.

    Args:
        positions: `(n_nodes, 3)`.
        graph: `(n_nodes,)` int64, which graph a node belongs to.
        n_graphs: number of graphs.

    Returns:
        `(n_nodes, 3)`.
    """
    total = positions.new_zeros((n_graphs, 3)).index_add(0, graph, positions)
    count = positions.new_zeros(n_graphs).index_add(0, graph, positions.new_ones(len(graph)))
    return (total / count.clamp(min=1.0)[:, None])[graph]


def _check_sizes(least: int, **sizes: int) -> None:
    """Refuse a size that is no integer or too small."""
    for name, value in sizes.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


class EGNO(nn.Module):
    """The published Equivariant Graph Neural Operator, weight-compatible."""

    time_features: Tensor

    def __init__(
        self,
        n_layers: int,
        in_node_nf: int,
        in_edge_nf: int,
        hidden_nf: int,
        *,
        with_v: bool = True,
        flat: bool = False,
        norm: bool = False,
        use_time_conv: bool = True,
        num_modes: int = 2,
        num_timesteps: int = 8,
        time_emb_dim: int = 32,
    ) -> None:
        """Make the model with the published initial weights' distribution.

        Args:
            n_layers: layers, each a temporal convolution followed by a graph layer.
            in_node_nf: node features given.
            in_edge_nf: edge features given.
            hidden_nf: width of the node features inside.
            with_v: whether velocities move the nodes (`phi_v`).
            flat: tanh networks with a wide middle.
            norm: normalise the squared distance, which erases it; kept for weights made so.
            use_time_conv: whether there are temporal convolutions.
            num_modes: Fourier modes kept, at most `num_timesteps // 2 + 1`.
            num_timesteps: time points made.
            time_emb_dim: width of the time embedding.

        Raises:
            ValueError: if a size is not possible.
        """
        super().__init__()
        _check_sizes(1, n_layers=n_layers, hidden_nf=hidden_nf)
        _check_sizes(1, num_timesteps=num_timesteps, num_modes=num_modes)
        _check_sizes(0, in_node_nf=in_node_nf, in_edge_nf=in_edge_nf, time_emb_dim=time_emb_dim)
        self.n_layers, self.in_node_nf, self.in_edge_nf = n_layers, in_node_nf, in_edge_nf
        self.hidden_nf, self.with_v, self.flat, self.norm = hidden_nf, with_v, flat, norm
        self.use_time_conv, self.num_modes = use_time_conv, num_modes
        self.num_timesteps, self.time_emb_dim = num_timesteps, time_emb_dim

        self.layers = nn.ModuleList(
            GraphLayer(in_edge_nf, hidden_nf, with_v=with_v, flat=flat, norm=norm)
            for _ in range(n_layers)
        )
        self.embedding = nn.Linear(in_node_nf + time_emb_dim, hidden_nf)
        if use_time_conv:
            self.time_conv_modules = nn.ModuleList(
                FeatureConvolution(hidden_nf, num_modes, num_timesteps) for _ in range(n_layers)
            )
            self.time_conv_x_modules = nn.ModuleList(
                VectorConvolution(2, num_modes, num_timesteps) for _ in range(n_layers)
            )
        table = time_embedding(num_timesteps, time_emb_dim).to(self.embedding.weight.dtype)
        self.register_buffer("time_features", table, persistent=False)

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        """Make the model that `architecture()` described, with fresh weights.

        Raises:
            ValueError: if a key is missing or unknown.
        """
        given = {k: v for k, v in architecture.items() if k != "name"}
        needed = ("n_layers", "in_node_nf", "in_edge_nf", "hidden_nf")
        missing = [k for k in needed if k not in given]
        unknown = [k for k in given if k not in needed and k not in PUBLISHED_DEFAULTS]
        if missing or unknown:
            raise ValueError(
                f"architecture of an egno has missing keys {missing} and unknown keys {unknown}; "
                f"known are {[*needed, *PUBLISHED_DEFAULTS]}"
            )
        return cls(**given)

    def architecture(self) -> dict[str, Any]:
        """Constructor arguments as JSON, with the name of the architecture."""
        needed = ("n_layers", "in_node_nf", "in_edge_nf", "hidden_nf")
        return {"name": "egno"} | {k: getattr(self, k) for k in (*needed, *PUBLISHED_DEFAULTS)}

    def forward(
        self,
        positions: Tensor,
        velocities: Tensor,
        node_features: Tensor,
        edge_index: Tensor,
        edge_features: Tensor,
        centres: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict all time points from the initial state.

        Args:
            positions: `(n_nodes, 3)`, in the unit the model was trained with.
            velocities: `(n_nodes, 3)`.
            node_features: `(n_nodes, in_node_nf)` invariant features.
            edge_index: `(2, n_edges)` int64, receivers and senders.
            edge_features: `(n_edges, in_edge_nf)` invariant features of the initial state.
            centres: `(n_nodes, 3)`, centre of each node's graph; see `graph_centres`.

        Returns:
            positions and velocities `(num_timesteps, n_nodes, 3)`, and features
            `(num_timesteps, n_nodes, hidden_nf)`. The velocities are what the temporal
            convolutions make of the initial ones; the published training never looks at them.

        Raises:
            ValueError: if a shape does not fit.
        """
        self._check(positions, velocities, node_features, edge_index, edge_features, centres)
        times, nodes = self.num_timesteps, positions.shape[0]
        row, col = edge_index[0], edge_index[1]
        degree = positions.new_zeros((nodes, 1)).index_add(
            0, row, positions.new_ones((len(row), 1))
        )
        degree = degree.clamp(min=1.0)
        # The embedding is linear, so its two inputs need not be repeated and joined.
        of_node, of_time = columns(self.embedding.weight, self.in_node_nf, self.time_emb_dim)
        still = functional.linear(node_features, of_node, self.embedding.bias)
        h = still[None] + functional.linear(self.time_features, of_time)[:, None]
        x = positions.expand(times, nodes, 3)
        v = velocities.expand(times, nodes, 3)
        for i, layer in enumerate(self.layers):
            if self.use_time_conv:
                h = self.time_conv_modules[i](h)
                x, v = self._convolve(i, x, v, centres)
            x, h = layer(x, v, h, (row, col), edge_features, degree)
        return x, v, h

    def _convolve(self, i: int, x: Tensor, v: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve centred positions and velocities over time."""
        both = self.time_conv_x_modules[i](torch.stack((x - centres, v), -1))
        return both[..., 0] + centres, both[..., 1]

    def _check(
        self,
        positions: Tensor,
        velocities: Tensor,
        node_features: Tensor,
        edge_index: Tensor,
        edge_features: Tensor,
        centres: Tensor,
    ) -> None:
        nodes = positions.shape[0]
        edges = edge_index.shape[-1] if edge_index.ndim == 2 else -1
        expected: tuple[tuple[str, Tensor, tuple[int, ...]], ...] = (
            ("positions", positions, (nodes, 3)),
            ("velocities", velocities, (nodes, 3)),
            ("node_features", node_features, (nodes, self.in_node_nf)),
            ("edge_index", edge_index, (2, edges)),
            ("edge_features", edge_features, (edges, self.in_edge_nf)),
            ("centres", centres, (nodes, 3)),
        )
        for name, value, shape in expected:
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
