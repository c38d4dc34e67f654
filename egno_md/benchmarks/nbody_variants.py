"""Our rows of the N-body table: a network in real time, exact at the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from egno_md.benchmarks.paper_training import Recipe
from egno_md.benchmarks.path_table import Row
from egno_md.benchmarks.paths import PathBatch, PathTask
from egno_md.models.adaptive_egno import AdaptiveEGNO

#: Passes over the training data.
EPOCHS: Final = 40
BATCH_SIZE: Final = 300
#: The motion is the same at all times, and close encounters make late times chaotic: only the
#: first times teach.
TEACHING_TIMES: Final = 2
#: Largest gradient of a graph per step, as a multiple of its share of the loss.
GRADIENT_BOUND: Final = 0.1
#: Rounds off the loss at zero, unit of length squared.
LEAST_SQUARE: Final = 1e-6


class AdaptivePaths(nn.Module):
    """Adaptive EGNO as a row: batches in, positions at the batch's times out.

    Of the edge features it takes the first, the product of charges: the squared distance at the
    start is no property of a pair that moves. The speed, a node feature, is not needed.
    """

    pairs: Tensor

    def __init__(self, task: PathTask) -> None:
        """Make the network for a task.

        Args:
            task: gives the graph, which all its samples share and which has both directions.

        Raises:
            ValueError: if samples have graphs of their own.
        """
        super().__init__()
        edges = task.training.edges
        if not isinstance(edges, Tensor):
            raise ValueError(f"{task.name} has a graph per sample; needed is one for all")
        once = edges[0] < edges[1]
        self.register_buffer("once", once, persistent=False)
        self.register_buffer("pairs", edges[:, once].clone(), persistent=False)
        self.network = AdaptiveEGNO(1)

    def forward(self, batch: PathBatch) -> Tensor:
        """Positions `(B, P, N, 3)` at the batch's times."""
        return self._positions(batch, batch.times)

    def path_loss(self, batch: PathBatch) -> Tensor:
        """Mean distance from the first targets, which outliers dominate less than a square.

        Args:
            batch: the samples.
        """
        first = self._positions(batch, batch.times[:TEACHING_TIMES])
        error = first - batch.targets[:, :TEACHING_TIMES]
        return (error.square().sum(-1) + LEAST_SQUARE).sqrt().mean()

    def _positions(self, batch: PathBatch, times: Tensor) -> Tensor:
        count = batch.positions.shape[0]
        features = batch.edge_features.view(count, -1, batch.edge_features.shape[-1])
        once = self.get_buffer("once")
        x: Tensor = self.network(
            batch.positions,
            batch.velocities,
            features[:, once, :1],
            self.pairs,
            times,
            gradient_bound=GRADIENT_BOUND / count,
        )[0]
        return x


RECIPE: Final = Recipe(
    EPOCHS,
    BATCH_SIZE,
    learning_rate=3e-3,
    warmup_epochs=2.0,
    ema_decay=0.99,
    validate_every_epochs=4,
)

VARIANTS: Final[Mapping[str, Row]] = {
    "Hamiltonian EGNO, adaptive steps": Row(AdaptivePaths, RECIPE)
}

#: Protocol of these rows, for the notes of the table.
NOTE: Final = (
    "Hamiltonian EGNO, adaptive steps: one graph layer gives a potential whose motion is followed "
    "in real time; its features of the distance include 1/r. Trained on the first "
    f"{TEACHING_TIMES} times only: mean distance, AdamW, {RECIPE.learning_rate:g} with a "
    f"cosine, {EPOCHS} passes, batch {BATCH_SIZE}, averaged weights. It is "
    "not parallel in time as EGNO is."
)
