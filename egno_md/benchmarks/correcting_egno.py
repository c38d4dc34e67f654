"""EGNO that corrects a first guess of the positions at each time.

The layers are the published ones. Around them, three things differ:

- they start from the guess, instead of from the same positions at all times;
- their vector channel is the guessed displacement, not the velocity, and its length is a feature;
- where all samples are one upright body, such as a skeleton, nodes know their kind, their
  vertical velocity and their guessed height.

What moves the nodes is small at first, so that training starts near the guess.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from egno_md.benchmarks.kernel_guess import UP
from egno_md.benchmarks.paths import PathBatch, Paths, PathTask
from egno_md.models.egno import EGNO
from egno_md.models.egno_layer import GraphLayer

#: Factor on the first weights of what moves the nodes.
FIRST_STEP: Final = 0.1
#: Those: the convolution of vectors, and the last maps of phi_x and phi_v.
_MOVING: Final = ("time_conv_x_modules", "coord_net.mlp.2", "node_v_net.mlp.2")


class LineGuess(nn.Module):
    """Straight lines: `x + c v` with the best c of each time on training data."""

    factors: Tensor

    def __init__(self, paths: Paths) -> None:
        """Fit the factors.

        Args:
            paths: the training samples.
        """
        super().__init__()
        v = paths.velocities[:, None].double()
        moved = paths.targets.double() - paths.positions[:, None]
        factors = (moved * v).sum((0, 2, 3)) / v.square().sum().clamp(min=1e-300)
        self.register_buffer("factors", factors.float(), persistent=False)

    def forward(self, batch: PathBatch) -> Tensor:
        """Positions `(B, P, N, 3)`."""
        moved = self.factors[:, None, None] * batch.velocities[:, None]
        return batch.positions[:, None] + moved


class CorrectingEGNO(nn.Module):
    """A guess, and layers of EGNO after it."""

    labels: Tensor

    def __init__(
        self,
        task: PathTask,
        guess: nn.Module,
        hidden: int,
        n_layers: int,
        *,
        kinds: Tensor | None = None,
        use_time_conv: bool = True,
        first_step: float = FIRST_STEP,
    ) -> None:
        """Make the network.

        Args:
            task: gives nodes, time points and widths of features.
            guess: takes a `PathBatch` to `(B, P, N, 3)`; not trained.
            hidden: width inside.
            n_layers: layers.
            kinds: `(N,)` int64 kind of each node, from 0, where all samples are one upright
                body; it is then equivariant to turns about the vertical and mirroring alone.
            use_time_conv: False gives an EGNN with a time embedding.
            first_step: factor on the first weights of what moves the nodes.
        """
        super().__init__()
        paths = task.training
        self.guess = guess
        kinds = torch.arange(0) if kinds is None else kinds
        labels = nn.functional.one_hot(kinds).float() if len(kinds) else torch.zeros(0, 0)
        self.register_buffer("labels", labels, persistent=False)
        self.n_nodes, self.n_times = paths.n_nodes, len(paths.times)
        moved = paths.targets[:, -1] - paths.positions
        #: Makes the length of a displacement a number of order one; unit of the positions.
        self.length = max(float(moved.square().sum(-1).mean().sqrt()), 1e-6)
        width = paths.node_features.shape[-1] + 1 + (labels.shape[1] + 2) * bool(len(kinds))
        self.egno = EGNO(
            n_layers,
            width,
            paths.n_edge_features,
            hidden,
            use_time_conv=use_time_conv,
            num_timesteps=self.n_times,
        )
        with torch.no_grad():
            for name, weight in self.egno.named_parameters():
                if any(part in name for part in _MOVING):
                    weight.mul_(first_step)

    def forward(self, batch: PathBatch) -> Tensor:
        """Positions `(B, P, N, 3)` of a batch."""
        guess = self.guess(batch)
        moved = guess - batch.positions[:, None]
        x, v = _by_time(guess), _by_time(moved)
        centres = _by_time(guess.mean(2, keepdim=True).expand_as(guess))
        time = self.egno.time_features[:, None].expand(-1, x.shape[1], -1)
        features = torch.cat((_by_time(self._features(batch, moved)), time), -1)
        x = self._layers(x, v, self.egno.embedding(features), centres, batch)
        return x.view(self.n_times, -1, self.n_nodes, 3).transpose(0, 1)

    def _layers(self, x: Tensor, v: Tensor, h: Tensor, centres: Tensor, batch: PathBatch) -> Tensor:
        """Positions `(P, B N, 3)` after the layers."""
        egno, (row, col) = self.egno, batch.edge_index
        degree = x.new_zeros((x.shape[1], 1)).index_add(0, row, x.new_ones((len(row), 1)))
        degree = degree.clamp(min=1.0)
        for i, layer in enumerate(egno.layers):
            if egno.use_time_conv:
                h = egno.time_conv_modules[i](h)
                both = egno.time_conv_x_modules[i](torch.stack((x - centres, v), -1))
                x, v = both[..., 0] + centres, both[..., 1]
            assert isinstance(layer, GraphLayer)  # for the type checker
            x, h = layer(x, v, h, (row, col), batch.edge_features, degree)
        return x

    def _features(self, batch: PathBatch, moved: Tensor) -> Tensor:
        """Invariant features `(B, P, N, F)`."""
        shape = moved.shape[:3]
        parts = [
            batch.node_features[:, None].expand(*shape, -1),
            moved.norm(dim=-1, keepdim=True) / self.length,
        ]
        if len(self.labels):
            rising = batch.velocities[:, None, :, UP].expand(shape)
            height = batch.positions[:, None, :, UP] + moved[..., UP]
            label = self.labels.to(moved)
            parts += [torch.stack((rising, height / self.length), -1), label.expand(*shape, -1)]
        return torch.cat(parts, -1)


def _by_time(values: Tensor) -> Tensor:
    """`(B, P, N, ...)` as `(P, B N, ...)`."""
    return values.transpose(0, 1).flatten(1, 2)
