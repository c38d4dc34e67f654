"""The published EGNO restated for being read, not for speed.

Nodes and edges are repeated for every time point, features joined on the edges, and FFTs taken.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def mlp(w: Weights, name: str, x: Tensor, *, flat: bool, last: bool = False) -> Tensor:
    act = torch.tanh if flat else F.silu
    x = F.linear(x, w[f"{name}.mlp.0.weight"], w[f"{name}.mlp.0.bias"])
    x = F.linear(act(x), w[f"{name}.mlp.2.weight"], w[f"{name}.mlp.2.bias"])
    return act(x) if last else x


def spectral(weight: Tensor, signal: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(signal, dim=0)[: weight.shape[2]]
    mixed = torch.einsum("m...i,iom->m...o", spectrum, torch.view_as_complex(weight))
    return torch.fft.irfft(mixed, n=signal.shape[0], dim=0)


def scatter_sum(values: Tensor, row: Tensor, n: int) -> Tensor:
    where = row[:, None].expand(-1, values.shape[1])
    return torch.zeros(n, values.shape[1]).scatter_add(0, where, values)


def plain_egno(w: Weights, given: dict[str, Tensor], a: dict) -> tuple[Tensor, Tensor, Tensor]:
    times, nodes, flat = a["num_timesteps"], len(given["x"]), a["flat"]
    half = a["time_emb_dim"] // 2
    frequency = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    angle = torch.arange(times)[:, None].float() * frequency
    tau = F.pad(torch.cat((angle.sin(), angle.cos()), -1), (0, a["time_emb_dim"] % 2))
    s = torch.cat((given["h"].repeat(times, 1), tau.repeat_interleave(nodes, 0)), -1)
    h = F.linear(s, w["embedding.weight"], w["embedding.bias"])
    x, v, c = (given[k].repeat(times, 1) for k in ("x", "v", "loc_mean"))
    edge_fea = given["edge_fea"].repeat(times, 1)
    shift = torch.arange(times).repeat_interleave(len(given["row"])) * nodes
    row, col = given["row"].repeat(times) + shift, given["col"].repeat(times) + shift
    degree = scatter_sum(torch.ones(len(row), 1), row, len(x)).clamp(min=1)
    for i in range(a["n_layers"]):
        if a["use_time_conv"]:
            k = spectral(w[f"time_conv_modules.{i}.t_conv.weights1"], h.view(times, nodes, -1))
            h = h + F.leaky_relu(k).reshape(len(h), -1)
            z = torch.stack((x - c, v), -1).view(times, nodes, 3, 2)
            z = z + spectral(w[f"time_conv_x_modules.{i}.t_conv.weights1"], z)
            x, v = z[..., 0].reshape(-1, 3) + c, z[..., 1].reshape(-1, 3)
        name = f"layers.{i}"
        r = x[row] - x[col]
        squared = (r * r).sum(-1, keepdim=True)
        if a["norm"]:
            squared = F.normalize(squared, p=2, dim=-1)
        joined = torch.cat((squared, h[row], h[col], edge_fea), -1)
        m = mlp(w, f"{name}.edge_message_net.scalar_net", joined, flat=flat, last=True)
        pull = scatter_sum(r * mlp(w, f"{name}.coord_net", m, flat=flat), row, len(x)) / degree
        x = x + pull.clamp(-100, 100)
        if a["with_v"]:
            x = x + mlp(w, f"{name}.node_v_net", h, flat=flat) * v
        joined = torch.cat((h, scatter_sum(m, row, len(x))), -1)
        h = mlp(w, f"{name}.node_net", joined, flat=flat)
    return x, v, h
