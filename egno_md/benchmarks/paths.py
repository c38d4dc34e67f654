"""Tasks of the paper's tables: from one start to the positions at some later times.

A sample is a start `(x0, v0)` and its positions at `P` later times. Samples of a task have the
same number of nodes. Their graphs are either one for all (`edges`) or one each (`graphs`), as
the contact graphs of a protein differ between frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PathBatch:
    """Some samples, ready for a model.

    With `B` samples of `N` nodes; node `n` of sample `b` has the flat number `b N + n`.

    Attributes:
        positions: `(B, N, 3)`, unit of the task.
        velocities: `(B, N, 3)`, unit of the task per unit of `times`.
        targets: `(B, P, N, 3)` positions at the times asked for.
        times: `(P,)` after the start.
        node_features: `(B, N, F)` invariant features.
        edge_index: `(2, n_edges)` flat numbers of receivers and senders, sample after sample.
        edge_features: `(n_edges, G)` invariant features.
        edges: `(2, E)` the graph in numbers of one sample if all share it, so that
            `edge_features.view(B, E, G)` is sample by sample; else None.
    """

    positions: Tensor
    velocities: Tensor
    targets: Tensor
    times: Tensor
    node_features: Tensor
    edge_index: Tensor
    edge_features: Tensor
    edges: Tensor | None


class Paths:
    """Samples of one split."""

    def __init__(
        self,
        positions: Tensor,
        velocities: Tensor,
        targets: Tensor,
        times: Tensor,
        node_features: Tensor,
        edges: Tensor | Sequence[Tensor],
        edge_features: Tensor | Sequence[Tensor],
    ) -> None:
        """Take the samples and check that they fit together.

        Args:
            positions: `(n, N, 3)`, one unit of length throughout.
            velocities: `(n, N, 3)`, that unit per unit of `times`.
            targets: `(n, P, N, 3)`.
            times: `(P,)`, increasing, positive; the last point gives the F-MSE.
            node_features: `(n, N, F)`, invariant, and of no other sample.
            edges: `(2, E)` int64 receivers and senders, shared by all samples, or one such
                tensor per sample.
            edge_features: `(n, E, G)`, or one `(E_k, G)` per sample.

        Raises:
            ValueError: if shapes, numbers or node numbers do not fit.
        """
        self.positions, self.velocities, self.targets = positions, velocities, targets
        self.times, self.node_features = times, node_features
        self.shared = isinstance(edges, Tensor)
        self.edges, self.edge_features = edges, edge_features
        self._numbered: dict[int, Tensor] = {}
        self._check()

    def __len__(self) -> int:
        """Number of samples."""
        return self.positions.shape[0]

    @property
    def n_nodes(self) -> int:
        """Nodes per sample."""
        return self.positions.shape[1]

    @property
    def n_edge_features(self) -> int:
        """Width of the edge features."""
        return self.edge_features[0].shape[-1]

    def batch(self, chosen: Tensor) -> PathBatch:
        """Put some samples together.

        Args:
            chosen: `(B,)` int64 numbers of samples.
        """
        index, features = self._graph_of(chosen)
        return PathBatch(
            self.positions[chosen],
            self.velocities[chosen],
            self.targets[chosen],
            self.times,
            self.node_features[chosen],
            index,
            features,
            self.edges if isinstance(self.edges, Tensor) else None,
        )

    def first(self, count: int) -> Paths:
        """The first samples, as a task of fewer data.

        Args:
            count: how many.

        Raises:
            ValueError: if there are not so many.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"there are {len(self)} samples, asked for the first {count}")
        return Paths(
            self.positions[:count],
            self.velocities[:count],
            self.targets[:count],
            self.times,
            self.node_features[:count],
            self.edges if isinstance(self.edges, Tensor) else self.edges[:count],
            self.edge_features[:count],
        )

    def to(self, device: torch.device | str) -> Paths:
        """The same samples on another device.

        Args:
            device: where to.
        """
        edges, features = self.edges, self.edge_features
        return Paths(
            self.positions.to(device),
            self.velocities.to(device),
            self.targets.to(device),
            self.times.to(device),
            self.node_features.to(device),
            edges.to(device) if isinstance(edges, Tensor) else [e.to(device) for e in edges],
            features.to(device)
            if isinstance(features, Tensor)
            else [f.to(device) for f in features],
        )

    def _graph_of(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        count = len(chosen)
        if isinstance(self.edges, Tensor) and isinstance(self.edge_features, Tensor):
            if count not in self._numbered:
                first = self.n_nodes * torch.arange(count, device=self.edges.device)
                self._numbered[count] = (first[:, None] + self.edges[:, None]).flatten(1)
            return self._numbered[count], self.edge_features[chosen].flatten(0, 1)
        samples = chosen.tolist()
        index = [self.edges[k] + i * self.n_nodes for i, k in enumerate(samples)]
        return torch.cat(index, 1), torch.cat([self.edge_features[k] for k in samples])

    def _check(self) -> None:
        n, nodes, _ = (*self.positions.shape, 0, 0, 0)[:3]
        points = len(self.times)
        width = self.node_features.shape[-1]
        for name, value, shape in (
            ("positions", self.positions, (n, nodes, 3)),
            ("velocities", self.velocities, (n, nodes, 3)),
            ("targets", self.targets, (n, points, nodes, 3)),
            ("node_features", self.node_features, (n, nodes, width)),
        ):
            if tuple(value.shape) != shape or value.numel() == 0:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} has numbers that are not finite")
        if self.times.ndim != 1 or not bool((self.times.diff() > 0).all()) or self.times[0] <= 0:
            raise ValueError(f"times must be positive and increase, got {self.times.tolist()}")
        if self.shared != isinstance(self.edge_features, Tensor):
            raise ValueError("give edges and edge_features both as one tensor or both per sample")
        if len(self.edge_features) != n or (not self.shared and len(self.edges) != n):
            raise ValueError(f"{n} samples need edge features (and graphs) of as many")
        graphs = [self.edges] * n if isinstance(self.edges, Tensor) else self.edges
        seen: set[int] = set()
        for k, (graph, features) in enumerate(zip(graphs, self.edge_features, strict=True)):
            if id(graph) not in seen and (
                graph.ndim != 2 or graph.shape[0] != 2 or graph.dtype != torch.int64
            ):
                raise ValueError(f"edges of sample {k} must be int64 of shape (2, n_edges)")
            if (
                id(graph) not in seen
                and graph.numel()
                and not 0 <= graph.min() <= graph.max() < nodes
            ):
                raise ValueError(f"edges of sample {k} name nodes outside 0..{nodes - 1}")
            seen.add(id(graph))
            if tuple(features.shape) != (graph.shape[1], self.n_edge_features):
                raise ValueError(
                    f"edge_features of sample {k} must have shape "
                    f"{(graph.shape[1], self.n_edge_features)}, got {tuple(features.shape)}"
                )
            if not bool(torch.isfinite(features).all()):
                raise ValueError(f"edge_features of sample {k} have numbers that are not finite")


#: Names of the splits, in the order of `PathTask`.
SPLITS: Final = ("training", "validation", "test")


@dataclass(frozen=True, slots=True, eq=False)
class PathTask:
    """A task: its three splits, which agree in nodes, times and widths of features.

    Attributes:
        name: for tables and errors.
        training: what is fitted.
        validation: what chooses the epoch.
        test: what is reported.
    """

    name: str
    training: Paths
    validation: Paths
    test: Paths

    def __post_init__(self) -> None:
        """Check that the splits agree.

        Raises:
            ValueError: naming the split that differs.
        """
        for split in SPLITS[1:]:
            other: Paths = getattr(self, split)
            if _sizes(other) != _sizes(self.training):
                raise ValueError(
                    f"the {split} split of {self.name} has (nodes, times, node features, edge "
                    f"features) {_sizes(other)}, the training split {_sizes(self.training)}"
                )

    def to(self, device: torch.device | str) -> PathTask:
        """The same task on another device.

        Args:
            device: where to.
        """
        splits = (self.training, self.validation, self.test)
        return PathTask(self.name, *(split.to(device) for split in splits))


def _sizes(paths: Paths) -> tuple[int, tuple[float, ...], int, int]:
    times = tuple(paths.times.tolist())
    return paths.n_nodes, times, paths.node_features.shape[-1], paths.n_edge_features
