"""The published EGNO computed the straightforward way: the yardstick for what ours costs.

Same weights, same numbers but for rounding, without the rearrangements of
`egno_md.models.egno`: every time point is a copy of the graph, the message network sees the
joined features of every edge, and the temporal convolutions go through complex FFTs.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from egno_md.models.egno import EGNO
from egno_md.models.egno_layer import LARGEST_STEP, GraphLayer, Perceptron
from egno_md.models.temporal_convolution import SpectralConvolution


class PlainEGNO(nn.Module):
    """Runs the weights of an `EGNO` by the formulas as they are written down."""

    def __init__(self, egno: EGNO) -> None:
        """Take the weights; they are shared, not copied.

        Args:
            egno: the model.
        """
        super().__init__()
        self.egno = egno

    def forward(
        self,
        positions: Tensor,
        velocities: Tensor,
        node_features: Tensor,
        edge_index: Tensor,
        edge_features: Tensor,
        centres: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict all time points; arguments and results are those of `EGNO.forward`."""
        egno, nodes = self.egno, positions.shape[0]
        times = egno.num_timesteps
        first = nodes * torch.arange(times, device=edge_index.device)
        row, col = (edge_index[:, None] + first[:, None]).flatten(1)
        edge_features = edge_features.repeat(times, 1)
        tau = egno.time_features.repeat_interleave(nodes, 0)
        h = egno.embedding(torch.cat((node_features.repeat(times, 1), tau), -1))
        x, v, centre = (values.repeat(times, 1) for values in (positions, velocities, centres))
        for i, module in enumerate(egno.layers):
            if egno.use_time_conv:
                h = h + functional.leaky_relu(convolve(_convolution(egno, "", i), h))
                both = torch.stack((x - centre, v), -1)
                both = both + convolve(_convolution(egno, "_x", i), both)
                x, v = both[..., 0] + centre, both[..., 1]
            layer = cast(GraphLayer, module)
            x, h = graph_layer(layer, x, v, h, row, col, edge_features)
        shape = (times, nodes, -1)
        return x.view(shape), v.view(shape), h.view(shape)


def _convolution(egno: EGNO, kind: str, i: int) -> SpectralConvolution:
    modules = cast(nn.ModuleList, getattr(egno, f"time_conv{kind}_modules"))
    return cast(SpectralConvolution, modules[i].t_conv)


def convolve(convolution: SpectralConvolution, signal: Tensor) -> Tensor:
    """Fourier transform, a complex matrix per kept mode, inverse transform.

    Args:
        convolution: holds the matrices.
        signal: `(n_times * n_nodes, ..., in_channels)`, time after time.

    Returns:
        `(n_times * n_nodes, ..., out_channels)`.
    """
    times = convolution.n_times
    spectrum = torch.fft.rfft(signal.view(times, -1, *signal.shape[1:]), dim=0)
    matrices = torch.view_as_complex(convolution.weights1)
    mixed = torch.einsum("m...i,iom->m...o", spectrum[: convolution.n_modes], matrices)
    back: Tensor = torch.fft.irfft(mixed, n=times, dim=0)
    return back.flatten(0, 1)


def graph_layer(
    layer: GraphLayer,
    x: Tensor,
    v: Tensor,
    h: Tensor,
    row: Tensor,
    col: Tensor,
    edge_features: Tensor,
) -> tuple[Tensor, Tensor]:
    """One graph layer on rows of nodes and rows of edges.

    Args:
        layer: holds the weights.
        x: `(n_rows, 3)` positions.
        v: `(n_rows, 3)` velocities.
        h: `(n_rows, hidden_nf)`.
        row: `(n_edge_rows,)` receivers.
        col: `(n_edge_rows,)` senders.
        edge_features: `(n_edge_rows, in_edge_nf)`.

    Returns:
        new positions and new features.
    """
    r = x[row] - x[col]
    squared = r.square().sum(-1, keepdim=True)
    if layer.edge_message_net.norm:
        squared = functional.normalize(squared, dim=-1)
    joined = torch.cat((squared, h[row], h[col], edge_features), -1)
    message = layer.edge_message_net.scalar_net(joined)
    degree = segment_sum(torch.ones_like(squared), row, len(x)).clamp(min=1.0)
    pull = segment_sum(r * layer.coord_net(message), row, len(x)) / degree
    new_x = x + pull.clamp(-LARGEST_STEP, LARGEST_STEP)
    if layer.node_v_net is not None:
        velocity_net: Perceptron = layer.node_v_net
        new_x = new_x + velocity_net(h) * v
    received = segment_sum(message, row, len(x))
    return new_x, layer.node_net(torch.cat((h, received), -1))


def segment_sum(values: Tensor, segment: Tensor, n_segments: int) -> Tensor:
    """Sum of the rows of each segment.

    Args:
        values: `(n_rows, width)`.
        segment: `(n_rows,)` int64.
        n_segments: number of segments.

    Returns:
        `(n_segments, width)`.
    """
    where = segment[:, None].expand_as(values)
    return values.new_zeros((n_segments, values.shape[1])).scatter_add(0, where, values)
