r"""Kernel ridge regression from a start to later positions: a control, and a first guess.

It takes the bodies of a task to be one body whose nodes are labelled, such as a skeleton, and
upright: rotations about the vertical and shifts along the ground change nothing, others do. In
the frame of the body, `z = [x, w v]` are its positions and velocities in one long vector, and

.. math::
    \hat y(z) = x + \bar d + \sum_n k(z, z_n)\, a_n, \qquad
    k(z, z') = e^{-|z - z'|^2 / 2 l^2}, \qquad
    (K + \lambda I)\, a = d - \bar d

| symbol | variable |
|---|---|
| displacements of the training samples, their mean | `d`, `self.mean` |
| coefficients | `self.coefficients` |
| weight of velocities | `VELOCITY_WEIGHT` |
| width of the kernel | `WIDTH` |
| strength of the ridge | `RIDGE` |

What it says of a training sample is better than what it says of others. A network that learns
to correct it must see errors of the second kind: in training mode the guess for a training
sample is that of a regression on the other groups of samples (`groups`) alone.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from egno_md.benchmarks.paths import PathBatch, Paths

#: Chosen on the validation split of MoCap-run.
VELOCITY_WEIGHT: Final = 24.0
WIDTH: Final = 80.0
RIDGE: Final = 0.01
#: The vertical component.
UP: Final = 1


class BodyFrame:
    """Frame of upright bodies: above their centre, turned to where they go."""

    def __init__(self, positions: Tensor, velocities: Tensor) -> None:
        """Find the frames.

        Args:
            positions: `(B, N, 3)`.
            velocities: `(B, N, 3)`.
        """
        self.origin = positions.mean(1).clone()
        self.origin[:, UP] = 0.0
        going = velocities.mean(1)
        angle = torch.atan2(going[:, 0], going[:, 2])
        sin, cos, zero, one = angle.sin(), angle.cos(), angle * 0.0, angle * 0.0 + 1.0
        turn = torch.stack((cos, zero, -sin, zero, one, zero, sin, zero, cos), -1)
        self.turn = turn.view(-1, 3, 3)

    def positions_in(self, positions: Tensor) -> Tensor:
        """Positions `(B, ..., 3)` in the frames."""
        return self.vectors_in(positions - self._origin_like(positions))

    def vectors_in(self, vectors: Tensor) -> Tensor:
        """Vectors `(B, ..., 3)` in the frames."""
        return torch.einsum("bij,b...j->b...i", self.turn, vectors)

    def vectors_out(self, vectors: Tensor) -> Tensor:
        """Vectors `(B, ..., 3)` of the frames, in space."""
        return torch.einsum("bji,b...j->b...i", self.turn, vectors)

    def _origin_like(self, positions: Tensor) -> Tensor:
        return self.origin.view(-1, *[1] * (positions.ndim - 2), 3)


class KernelGuess(nn.Module):
    """The regression, fitted when it is made; it has no weights to train."""

    known: Tensor
    mean: Tensor
    coefficients: Tensor
    held_out: Tensor
    held_out_means: Tensor
    groups: Tensor

    def __init__(self, paths: Paths, groups: Tensor, twins: Tensor | None = None) -> None:
        """Fit it.

        Args:
            paths: the training samples.
            groups: `(n,)` int64 number of the group each sample belongs to, from 0 without
                gaps; samples of different groups must be independent.
            twins: `(N,)` int64 node on the other side of each; then the mirror image of every
                sample is known as well. None knows no mirror images.

        Raises:
            ValueError: if there are not at least two groups, numbered so.
        """
        super().__init__()
        found = sorted(set(groups.tolist()))
        if groups.shape != (len(paths),) or len(found) < 2 or found != list(range(len(found))):
            raise ValueError(
                f"{len(paths)} samples need a group each, numbered from 0, at least two groups; "
                f"got groups {found} of {len(groups)} samples"
            )
        known, moved = _in_frame(paths, twins)
        groups = groups.repeat(len(known) // len(groups))
        fits = [_fit(known, moved, groups != group) for group in found]
        coefficients, mean = _fit(known, moved, groups >= 0)
        n_times = len(paths.times)
        self.shape = (n_times, paths.n_nodes, 3)
        self.register_buffer("known", known.float(), persistent=False)
        self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("mean", mean.float(), persistent=False)
        self.register_buffer("coefficients", coefficients.float(), persistent=False)
        self.register_buffer(
            "held_out", torch.stack([a for a, _ in fits]).float(), persistent=False
        )
        self.register_buffer(
            "held_out_means", torch.stack([m for _, m in fits]).float(), persistent=False
        )

    def forward(self, batch: PathBatch) -> Tensor:
        """Positions `(B, P, N, 3)`; in training mode, of training samples only."""
        frame = BodyFrame(batch.positions, batch.velocities)
        values = _kernel(
            _described(frame, batch.positions, batch.velocities).flatten(1), self.known
        )
        if self.training:
            group = self.groups[values.argmax(1)]
            moved = torch.einsum("bn,bnm->bm", values, self.held_out[group])
            moved = moved + self.held_out_means[group]
        else:
            moved = values @ self.coefficients + self.mean
        return batch.positions[:, None] + frame.vectors_out(moved.view(-1, *self.shape))


def _described(frame: BodyFrame, positions: Tensor, velocities: Tensor) -> Tensor:
    """The long vectors `(B, N, 6)`, not yet flat."""
    parts = (frame.positions_in(positions), VELOCITY_WEIGHT * frame.vectors_in(velocities))
    return torch.cat(parts, -1)


def _in_frame(paths: Paths, twins: Tensor | None) -> tuple[Tensor, Tensor]:
    """Long vectors `(n, 6 N)` and displacements `(n, 3 P N)` of samples, float64."""
    x, v = paths.positions.double(), paths.velocities.double()
    frame = BodyFrame(x, v)
    moved = frame.vectors_in(paths.targets.double() - x[:, None])
    known = _described(frame, x, v)
    if twins is not None:
        across = torch.tensor([-1.0, 1.0, 1.0], dtype=x.dtype, device=x.device)
        known = torch.cat((known, known[:, twins] * across.repeat(2)))
        moved = torch.cat((moved, moved[:, :, twins] * across))
    return known.flatten(1), moved.flatten(1)


def _kernel(queries: Tensor, known: Tensor) -> Tensor:
    distances = torch.cdist(queries, known, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-0.5 * (distances / WIDTH).square())


def _fit(known: Tensor, moved: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients `(n, m)`, 0 for samples not chosen, and mean `(m,)`."""
    mean = moved[chosen].mean(0)
    kernel = _kernel(known[chosen], known[chosen])
    kernel.diagonal().add_(RIDGE)
    coefficients = torch.zeros_like(moved)
    coefficients[chosen] = torch.linalg.solve(kernel, moved[chosen] - mean)
    return coefficients, mean
