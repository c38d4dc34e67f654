"""Direct EGNO: a whole segment from one look at its start, for the table of propagators.

Here to be compared with, not to be used: see docs/propagators.md. Equivariant graph layers read
positions and velocities once; every pair of atoms then gives four numbers as Fourier series of
the time after the start, which act along the pair and along its relative velocity:

    u_v(t) = (1 / m_i) sum_j [ a_ij(t) r_ij / |r_ij| + b_ij(t) (v_j - v_i) ],
    u_x(t) = v_i + t (1 / m_i) sum_j [ c_ij(t) r_ij / |r_ij| + d_ij(t) (v_j - v_i) ],
    x(t) = x + t u_x(t),    v(t) = v + t u_v(t).

u is the mean velocity in phase space over t. The map is exact at t = 0, a residual over free
flight, and equivariant; total momentum and the flight of the centre of mass are exact because a,
b, c and d are the same for both atoms of a pair. The series has the period 4 T, so that it need
not bend at the ends of [0, T].

| symbol | variable |
|---|---|
| T | `horizon_fs` |
| a, b, c, d | `_Start.series` |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from egno_md.models.pair_classes import PairClass, PairGraph
from egno_md.units import ACCELERATION_PER_FORCE, BOLTZMANN_EV_PER_K

#: Velocities are measured by thermal ones at this temperature.
_SPEED_AT_K = 400.0


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """What the graph layers made of a start; pairs first, replicas second.

    Attributes:
        series: `(p, r, 4, n_basis)` coefficients of a, b, c, d.
        along: `(p, r, 3)` unit vectors from atom i to atom j.
        relative: `(p, r, 3)` velocity of j seen from i, in thermal ones.
    """

    series: Tensor
    along: Tensor
    relative: Tensor


class _Layer(nn.Module):
    """Messages along pairs that know the distance, the relative speed and both ends."""

    def __init__(self, n_hidden: int, n_vectors: int, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.receive = nn.Linear(n_hidden, n_hidden)
        self.send = nn.Linear(n_hidden, n_hidden, bias=False)
        self.of_class = nn.Parameter(torch.empty(n_classes, n_features, n_hidden))
        nn.init.normal_(self.of_class, std=n_features**-0.5)
        self.project = nn.Linear(2 * n_vectors, n_hidden, bias=False)
        self.to_vectors = nn.Linear(n_hidden, n_vectors, bias=False)
        self.update = nn.Sequential(
            nn.Linear(2 * n_hidden + n_vectors, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_hidden)
        )

    def forward(
        self, h: Tensor, vectors: Tensor, features: Tensor, along: Tensor, graph: PairGraph
    ) -> tuple[Tensor, Tensor]:
        i, j = graph.pairs[0], graph.pairs[1]
        before = torch.bmm(features, self.of_class[graph.pair_class])
        at_i, at_j = (vectors[i] * along).sum(-2), (vectors[j] * along).sum(-2)
        to_i = before + self.receive(h)[i] + self.send(h)[j]
        to_j = before + self.receive(h)[j] + self.send(h)[i]
        m_i = silu(to_i + self.project(torch.cat([at_i, at_j], -1)))
        m_j = silu(to_j - self.project(torch.cat([at_j, at_i], -1)))
        gathered = torch.zeros_like(h).index_add(0, i, m_i).index_add(0, j, m_j)
        push_i = self.to_vectors(m_i)[..., None, :] * along
        push_j = self.to_vectors(m_j)[..., None, :] * along
        vectors = vectors.index_add(0, i, push_i).index_add(0, j, -push_j)
        size = vectors.square().sum(-2)
        return h + self.update(torch.cat([h, gathered, size], -1)), vectors


class DirectEGNO(nn.Module):
    """Positions and velocities at any time up to `horizon_fs`, from one call of the network."""

    distance_mean: Tensor
    distance_spread: Tensor
    centres: Tensor
    frequencies: Tensor

    def __init__(
        self,
        elements: Sequence[int],
        classes: Sequence[PairClass],
        *,
        horizon_fs: float = 8.0,
        n_modes: int = 3,
        n_hidden: int = 48,
        n_vectors: int = 12,
        n_layers: int = 2,
        n_radial: int = 12,
    ) -> None:
        """Make a network with random weights.

        Args:
            elements: atomic numbers that it will know.
            classes: pair classes that it will know, see `egno_md.models.pair_classes`.
            horizon_fs: T, the longest time that it will be asked for.
            n_modes: sines and cosines of the series in time.
            n_hidden: invariant channels per atom.
            n_vectors: vector channels per atom.
            n_layers: graph layers.
            n_radial: features of the standardised distance.
        """
        super().__init__()
        self.elements, self.classes = list(elements), list(classes)
        self.horizon_fs, self.n_hidden = horizon_fs, n_hidden
        n_classes, n_features, n_basis = len(self.classes), n_radial + 4, 2 * n_modes + 1
        self.register_buffer("distance_mean", torch.ones(n_classes))
        self.register_buffer("distance_spread", torch.ones(n_classes))
        self.register_buffer("centres", torch.linspace(-3.5, 3.5, n_radial - 2))
        steps = torch.arange(1, n_modes + 1) * (math.pi / (2.0 * horizon_fs))
        self.register_buffer("frequencies", steps)
        self.embedding = nn.Parameter(torch.empty(len(self.elements), n_hidden))
        nn.init.normal_(self.embedding)
        self.from_velocity = nn.Parameter(torch.empty(len(self.elements), n_vectors))
        nn.init.normal_(self.from_velocity)
        self.layers = nn.ModuleList(
            _Layer(n_hidden, n_vectors, n_features, n_classes) for _ in range(n_layers)
        )
        self.pair_node = nn.Linear(n_hidden, n_hidden)
        self.pair_vector = nn.Linear(n_vectors, n_hidden, bias=False)
        self.pair_feature = nn.Parameter(torch.empty(n_classes, n_features, n_hidden))
        nn.init.normal_(self.pair_feature, std=n_features**-0.5)
        self.read = nn.Linear(n_hidden, 4 * n_basis)
        # Begin near free flight: the consistency loss learns from the network's own derivatives.
        nn.init.normal_(self.read.weight, std=0.01)
        nn.init.zeros_(self.read.bias)
        #: Straight from the features of a pair to its series: stiff bonds are learned here.
        self.pair_terms = nn.Parameter(torch.zeros(n_classes, n_features, 4 * n_basis))

    def mean_velocity(
        self, positions: Tensor, velocities: Tensor, times_fs: Tensor, graph: PairGraph
    ) -> tuple[Tensor, Tensor]:
        """Return u, the mean of velocity and acceleration from the start to given times.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            velocities: same shape, Å/fs.
            times_fs: `(n_replicas, n_times)`.
            graph: the molecule's pairs.

        Returns:
            u_x, Å/fs, and u_v, Å/fs^2, `(n_replicas, n_times, n_atoms, 3)` each.
        """
        own = self.distance_mean.dtype
        start = self._encode(positions.to(own), velocities.to(own), graph)
        # (r, k, basis): 1, cosines, sines
        angle = times_fs.to(own)[..., None] * self.frequencies
        basis = torch.cat([torch.ones_like(angle[..., :1]), angle.cos(), angle.sin()], -1)
        at_times = torch.einsum("prcb,rkb->prkc", start.series, basis)[..., None]
        along, relative = start.along[:, :, None], start.relative[:, :, None]
        pull = at_times[..., 0, :] * along + at_times[..., 1, :] * relative
        bend = at_times[..., 2, :] * along + at_times[..., 3, :] * relative
        i, j = graph.pairs[0], graph.pairs[1]
        both = torch.cat([pull, bend], -1)
        zeros = both.new_zeros(positions.shape[1], *both.shape[1:])
        summed = zeros.index_add(0, i, both).index_add(0, j, -both)
        per_force = (ACCELERATION_PER_FORCE / graph.masses).to(own)[:, None, None, None]
        pushed = (summed * per_force).permute(1, 2, 0, 3)
        turned, moved = pushed[..., :3], pushed[..., 3:]
        t = times_fs[..., None, None].to(positions)
        return velocities[:, None] + t * moved.to(positions), turned.to(positions)

    def advance(
        self, positions: Tensor, velocities: Tensor, graph: PairGraph, times_fs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return positions and velocities at given times after the start.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            velocities: same shape, Å/fs.
            graph: the molecule's pairs.
            times_fs: `(n_times,)`, up to the horizon.

        Returns:
            `(n_replicas, n_times, n_atoms, 3)` each.
        """
        times = times_fs.expand(positions.shape[0], -1)
        u_x, u_v = self.mean_velocity(positions, velocities, times, graph)
        t = times_fs.to(positions)[:, None, None]
        return positions[:, None] + t * u_x, velocities[:, None] + t * u_v

    def _encode(self, positions: Tensor, velocities: Tensor, graph: PairGraph) -> _Start:
        masses = graph.masses.to(positions)[:, None]
        drift = (masses * velocities).sum(-2, keepdim=True) / masses.sum()
        speed = (BOLTZMANN_EV_PER_K * _SPEED_AT_K * ACCELERATION_PER_FORCE / masses).sqrt()
        x, v = positions.transpose(0, 1), (velocities - drift).transpose(0, 1)
        i, j, c = graph.pairs[0], graph.pairs[1], graph.pair_class
        apart = x[j] - x[i]
        distance = apart.square().sum(-1, keepdim=True).sqrt()
        along = apart / distance
        thermal = (speed[i].square() + speed[j].square()).sqrt()[:, None]
        relative = (v[j] - v[i]) / thermal
        z = (distance - self.distance_mean[c, None, None]) / self.distance_spread[c, None, None]
        z = z / (1 + (z / 8).square()).sqrt()
        gaussians = torch.exp(-0.5 * ((z - self.centres) / 0.8).square())
        w = (relative * along).sum(-1, keepdim=True)
        across = relative.square().sum(-1, keepdim=True) - w.square()
        features = [z, 0.2 * z.square(), gaussians, w, 0.2 * w.square(), 0.2 * z * w, 0.2 * across]
        pairs = torch.cat(features, -1)
        h = self.embedding[graph.element_index][:, None].expand(*x.shape[:2], -1)
        by_element = self.from_velocity[graph.element_index][:, None, None]
        vectors = (v / speed[:, None])[..., None] * by_element
        for layer in self.layers:
            h, vectors = layer(h, vectors, pairs, along[..., None], graph)
        node, arm = self.pair_node(h), vectors
        inward = ((arm[i] - arm[j]) * along[..., None]).sum(-2)
        joint = torch.bmm(pairs, self.pair_feature[c]) + self.pair_vector(inward)
        series = self.read(silu(joint + node[i] + node[j])) + torch.bmm(pairs, self.pair_terms[c])
        return _Start(series.unflatten(-1, (4, -1)), along, relative)
