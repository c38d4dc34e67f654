"""EGNO for MD: graph layers give a time-dependent Hamiltonian, a splitting integrates it.

EGNO (Xu et al., ICML 2024, arXiv 2401.11037) learns a map from one state to a whole segment and
represents its dependence on time in Fourier space. Here the same idea is put where it keeps the
structure of mechanics: equivariant graph layers give invariant potentials U_m(x), a cosine series
makes them depend on time, and a palindromic splitting integrates the Hamiltonian

    H(x, p, t) = sum_i p_i^2 / 2 m_i + U(x, t),    U(x, t) = sum_m cos(2 pi m t / T) U_m(x),

over T in S stages. The map is exactly symplectic, time-reversible (the series is even about T/2)
and equivariant, and conserves linear and angular momentum, whatever the weights are.

| symbol | variable |
|---|---|
| T | `step_fs` |
| S | `n_stages` |
| M | `n_modes` |
| U_m(x) | `HamiltonianEGNO.potentials` |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.models.frame_interpolation import path_at_times
from egno_md.models.pair_classes import PairClass, PairGraph
from egno_md.units import ACCELERATION_PER_FORCE


def smooth_cutoff(distance: Tensor, cutoff_A: float) -> Tensor:
    """Polynomial that falls from 1 to 0 at the cutoff with two vanishing derivatives.

    Args:
        distance: any shape, Å.
        cutoff_A: where it reaches zero.
    """
    x = (distance / cutoff_A).clamp(max=1.0)
    return 1 - x.pow(3) * (10 - 15 * x + 6 * x.square())


class _GraphLayer(nn.Module):
    """One equivariant graph layer: scalars h and vectors A on atoms, messages along pairs.

    Layout inside: atoms or pairs first, replicas second, channels last, so that gathers copy
    whole rows and products with unit vectors run along the channels.
    """

    def __init__(
        self, n_hidden: int, n_vectors: int, n_radial: int, n_classes: int, *, first: bool
    ) -> None:
        super().__init__()
        self.receive = nn.Linear(n_hidden, n_hidden)
        self.send = nn.Linear(n_hidden, n_hidden, bias=False)
        self.radial = nn.Parameter(torch.randn(n_classes, n_radial, n_hidden) / n_radial**0.5)
        # Before the first layer there are no vectors yet.
        self.project = None if first else nn.Linear(2 * n_vectors, n_hidden, bias=False)
        self.to_vectors = nn.Linear(n_hidden, n_vectors, bias=False)
        self.update = nn.Sequential(
            nn.Linear(2 * n_hidden + n_vectors, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_hidden)
        )

    def forward(
        self,
        h: Tensor,
        vectors: Tensor | None,
        radial: Tensor,
        envelope: Tensor,
        along: Tensor,
        graph: PairGraph,
    ) -> tuple[Tensor, Tensor]:
        """Update scalars `(n, r, F)` and vectors `(n, r, 3, C)`.

        Args:
            h: scalars.
            vectors: vectors, None before the first layer.
            radial: `(p, r, K)` radial features, or what `_spread_by_class` makes of them.
            envelope: `(p, r, 1)`, zero from the cutoff on.
            along: `(p, r, 3, 1)` unit vectors from atom i to atom j.
            graph: pairs and their classes.
        """
        i, j = graph.pairs[0], graph.pairs[1]
        if graph.shifts is None:
            before = torch.bmm(radial, self.radial[graph.pair_class])
        else:
            before = radial @ self.radial.flatten(0, 1)
        to_i = before + self.receive(h)[i] + self.send(h)[j]
        to_j = before + self.receive(h)[j] + self.send(h)[i]
        if vectors is not None and self.project is not None:
            at_i = (vectors[i] * along).sum(-2)
            at_j = (vectors[j] * along).sum(-2)
            to_i = to_i + self.project(torch.cat([at_i, at_j], -1))
            to_j = to_j - self.project(torch.cat([at_j, at_i], -1))
        m_i, m_j = silu(to_i) * envelope, silu(to_j) * envelope
        zeros = torch.zeros_like(h)
        gathered = zeros.index_add(0, i, m_i).index_add(0, j, m_j)
        push_i = self.to_vectors(m_i)[..., None, :] * along
        push_j = self.to_vectors(m_j)[..., None, :] * along
        if vectors is None:
            vectors = push_i.new_zeros(h.shape[0], *push_i.shape[1:])
        vectors = vectors.index_add(0, i, push_i).index_add(0, j, push_j, alpha=-1.0)
        size = vectors.square().sum(-2)
        return h + self.update(torch.cat([h, gathered, size], -1)), vectors


def _spread_by_class(features: Tensor, graph: PairGraph, n_classes: int) -> Tensor:
    """Move each pair's features to its class's place in a row that is zero elsewhere.

    One product with the weights of all classes then serves all pairs. With replicas on their
    own axis a gather of weights per pair is cheaper; in one large graph this is.

    Args:
        features: `(p, r, K)`.
        graph: gives the classes.
        n_classes: number of classes.

    Returns:
        `(p, r, n_classes * K)`.
    """
    rows = torch.arange(n_classes, device=features.device)
    mine = (graph.pair_class[:, None] == rows).to(features)
    return (mine[:, None, :, None] * features[:, :, None]).flatten(2)


class HamiltonianEGNO(nn.Module):
    """A learned symplectic map over `step_fs`, for any molecule made of known pairs."""

    name = "hamiltonian-egno"

    distance_mean: Tensor
    distance_spread: Tensor
    centres: Tensor

    def __init__(
        self,
        elements: Sequence[int],
        classes: Sequence[PairClass],
        *,
        step_fs: float = 4.0,
        n_stages: int = 2,
        n_modes: int = 2,
        n_hidden: int = 64,
        n_vectors: int = 16,
        n_layers: int = 2,
        n_radial: int = 12,
        cutoff_A: float = 8.0,
        bond_cap: int = 4,
    ) -> None:
        """Make a network with random weights.

        Args:
            elements: atomic numbers that it will know.
            classes: pair classes that it will know, see `pair_classes`.
            step_fs: T, the time that one application of the map covers.
            n_stages: S, kicks per application.
            n_modes: M, terms of the cosine series; at most S // 2 + 1 can be told apart.
            n_hidden: invariant channels per atom.
            n_vectors: vector channels per atom.
            n_layers: graph layers.
            n_radial: Gaussians of the standardised distance.
            cutoff_A: pairs further apart do not speak.
            bond_cap: bond distances from here on count as one.

        Raises:
            ValueError: if there are more modes than the stages can tell apart.
        """
        super().__init__()
        most = n_stages // 2 + 1
        if not 1 <= n_modes <= most:
            raise ValueError(f"n_modes is {n_modes}; {n_stages} stages can tell apart 1 to {most}")
        self.elements = [int(z) for z in elements]
        self.classes = [(int(a), int(b), int(n)) for a, b, n in classes]
        self.step_fs, self.n_stages, self.n_modes = float(step_fs), n_stages, n_modes
        self.n_hidden, self.n_vectors, self.n_layers = n_hidden, n_vectors, n_layers
        self.n_radial, self.cutoff_A, self.bond_cap = n_radial, float(cutoff_A), bond_cap
        n_classes = len(self.classes)
        self.register_buffer("distance_mean", torch.ones(n_classes))
        self.register_buffer("distance_spread", torch.ones(n_classes))
        self.register_buffer("centres", torch.linspace(-3.5, 3.5, n_radial - 2), persistent=False)
        self.embedding = nn.Parameter(torch.randn(len(self.elements), n_hidden))
        self.layers = nn.ModuleList(
            _GraphLayer(n_hidden, n_vectors, n_radial, n_classes, first=index == 0)
            for index in range(n_layers)
        )
        self.compiled: CompiledGradient | None = None
        to_modes = nn.Linear(n_hidden, n_modes)
        self.readout = nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.SiLU(), to_modes)
        # eV per unit of the standardised distance, its square, cube and fourth power.
        self.pair_terms = nn.Parameter(torch.zeros(n_classes, 4, n_modes))
        with torch.no_grad():
            self.pair_terms[:, 1, 0] = 0.02
            to_modes.weight[1:].zero_()
            to_modes.bias.zero_()

    def architecture(self) -> dict[str, Any]:
        """Return what `from_architecture` needs, as JSON types."""
        return {
            "name": self.name,
            "elements": self.elements,
            "classes": [list(c) for c in self.classes],
            "step_fs": self.step_fs,
            "n_stages": self.n_stages,
            "n_modes": self.n_modes,
            "n_hidden": self.n_hidden,
            "n_vectors": self.n_vectors,
            "n_layers": self.n_layers,
            "n_radial": self.n_radial,
            "cutoff_A": self.cutoff_A,
            "bond_cap": self.bond_cap,
        }

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> HamiltonianEGNO:
        """Make a network from what `architecture` returned."""
        options = {k: v for k, v in architecture.items() if k not in ("name", "classes")}
        return cls(classes=[tuple(c) for c in architecture["classes"]], **options)

    def potentials(self, positions: Tensor, graph: PairGraph) -> Tensor:
        """Return the invariant potentials of the cosine series.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            graph: the molecule's pairs, or those of many replicas in one graph, which then
                count as one replica.

        Returns:
            `(n_replicas, n_modes)`, eV.
        """
        x = positions.transpose(0, 1)
        i, j = graph.pairs[0], graph.pairs[1]
        apart = x[j] - x[i]
        if graph.shifts is not None:
            apart = apart + graph.shifts.to(x)[:, None]
        distance = apart.square().sum(-1, keepdim=True).sqrt()
        envelope = smooth_cutoff(distance, self.cutoff_A)
        c = graph.pair_class
        z = (distance - self.distance_mean[c, None, None]) / self.distance_spread[c, None, None]
        # Far outside the training data the features stay bounded.
        bounded = z / (1 + (z / 8).square()).sqrt()
        gaussians = torch.exp(-0.5 * ((bounded - self.centres) / 0.8).square())
        radial = torch.cat([bounded, 0.2 * bounded.square(), gaussians], -1)
        if graph.shifts is not None:
            radial = _spread_by_class(radial, graph, len(self.classes))
        along = (apart / distance)[..., None]
        n, r = x.shape[0], x.shape[1]
        h = self.embedding[graph.element_index][:, None].expand(n, r, self.n_hidden)
        vectors = None
        for layer in self.layers:
            h, vectors = layer(h, vectors, radial, envelope, along, graph)
        powers = torch.cat([bounded, bounded**2, bounded**3, bounded**4], -1)
        pairwise = (torch.bmm(powers, self.pair_terms[c]) * envelope).sum(0)
        on_atoms: Tensor = self.readout(h).sum(0)
        return 0.1 * on_atoms + pairwise

    def forward(self, positions: Tensor, *graph: Tensor) -> Tensor:
        """Return the potentials, with the graph as plain tensors in the order of its fields."""
        return self.potentials(positions, PairGraph(*graph))

    def stage_weights(self, stage: int) -> Tensor:
        """Return cos(2 pi m t / T) for every mode at a stage's time, `(n_modes,)`."""
        angle = 2 * math.pi * stage / self.n_stages
        return torch.tensor([math.cos(m * angle) for m in range(self.n_modes)])

    def force(self, positions: Tensor, graph: PairGraph, stage: int) -> Tensor:
        """Return minus the gradient of U(x, t) at a stage's time.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            graph: the molecule's pairs.
            stage: 0 to `n_stages`.

        Returns:
            `(n_replicas, n_atoms, 3)`, eV/Å; differentiable when the module is training.
        """
        return self.weighted_force(positions, graph, self.stage_weights(stage))

    def acceleration(self, positions: Tensor, graph: PairGraph) -> Tensor:
        """Return the acceleration by the time average of U(x, t), which is its first mode.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            graph: the molecule's pairs.

        Returns:
            `(n_replicas, n_atoms, 3)`, Å/fs^2.
        """
        first = torch.zeros(self.n_modes)
        first[0] = 1.0
        force = self.weighted_force(positions.to(self.distance_mean.dtype), graph, first)
        return ACCELERATION_PER_FORCE * force.to(positions) / graph.masses.to(positions)[:, None]

    def weighted_force(self, positions: Tensor, graph: PairGraph, mode_weights: Tensor) -> Tensor:
        """Return minus the gradient of the weighted sum of the potentials.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            graph: the molecule's pairs.
            mode_weights: `(n_modes,)`.

        Returns:
            `(n_replicas, n_atoms, 3)`, eV/Å; differentiable when the module is training.
        """
        weights = mode_weights.to(positions)
        if self.compiled is not None:
            with torch.set_grad_enabled(self.training):
                found = self.compiled(self, positions, graph.tensors(), weights)
            if found is not None:
                return -found
        with torch.enable_grad():
            x = positions if positions.requires_grad else positions.detach().requires_grad_(True)
            energy = (self.potentials(x, graph) * weights).sum()
            (gradient,) = torch.autograd.grad(energy, x, create_graph=self.training)
        return -gradient

    def stages(
        self, positions: Tensor, velocities: Tensor, graph: PairGraph, n_steps: int
    ) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Apply the map several times and stop at every place where forces were asked for.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            velocities: same shape, Å/fs.
            graph: the molecule's pairs.
            n_steps: applications of the map.

        Yields:
            Positions, velocities and whether they are a frame: between frames they only serve
            the map and say little of where atoms are.
        """
        own = self.distance_mean.dtype
        interval = self.step_fs / self.n_stages
        per_force = (interval * ACCELERATION_PER_FORCE / graph.masses).to(positions)[:, None]
        x, v = positions, velocities
        # U(x, 0) = U(x, T): the last kick's force serves the next application's first kick.
        kick = per_force * self.force(x.to(own), graph, 0).to(x)
        for _ in range(n_steps):
            v = v + 0.5 * kick
            for stage in range(1, self.n_stages + 1):
                x = x + interval * v
                kick = per_force * self.force(x.to(own), graph, stage).to(x)
                last = stage == self.n_stages
                v = v + (0.5 if last else 1.0) * kick
                yield x, v, last

    def advance(
        self, positions: Tensor, velocities: Tensor, graph: PairGraph, n_steps: int
    ) -> tuple[Tensor, Tensor]:
        """Apply the map several times.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            velocities: same shape, Å/fs.
            graph: the molecule's pairs.
            n_steps: applications of the map.

        Returns:
            Positions and velocities after each application, `(n_replicas, n_steps, n_atoms, 3)`.
        """
        stages = self.stages(positions, velocities, graph, n_steps)
        frames = [(x, v) for x, v, is_frame in stages if is_frame]
        return torch.stack([x for x, _ in frames], 1), torch.stack([v for _, v in frames], 1)

    def at_times(
        self, positions: Tensor, velocities: Tensor, graph: PairGraph, times_fs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the state at any times: exact at 0, the map's own at multiples of its step.

        In between, see `frame_interpolation`.

        Args:
            positions: `(n_replicas, n_atoms, 3)`, Å.
            velocities: same shape, Å/fs.
            graph: the molecule's pairs.
            times_fs: `(n_times,)` after the start, any order, none negative.

        Returns:
            Positions and velocities, `(n_replicas, n_times, n_atoms, 3)`.

        Raises:
            ValueError: if there are no times, or one is negative or not finite.
        """
        return path_at_times(
            times_fs,
            self.step_fs,
            positions,
            velocities,
            lambda x, v, n_steps: self.advance(x, v, graph, n_steps),
        )
