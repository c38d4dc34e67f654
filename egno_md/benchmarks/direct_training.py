"""The loss of the table of propagators: frames of a few segments in a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from egno_md.benchmarks.direct_egno import DirectEGNO
from egno_md.training.segment_loss import Paths

#: `(network, x, v)` to frames of positions and velocities, `(n, n_frames, n_atoms, 3)` each.
Follow = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]

Batch = tuple[Tensor, ...]
Measures = Mapping[str, float | Tensor]


def as_direct(network: nn.Module) -> DirectEGNO:
    """The network that a fit hands over: the one in training, or the average of its weights."""
    if not isinstance(network, DirectEGNO):
        raise TypeError(f"a DirectEGNO was to be fitted, got {type(network).__name__}")
    return network


def _of_element(values: Tensor, kinds: Tensor) -> Tensor:
    """Root mean square of `(n, n_atoms, 3)` values over each kind of atom, `(n_atoms, 1)`."""
    squares = values.square().mean((0, -1))
    return torch.stack([squares[kinds == k].mean() for k in kinds.tolist()]).sqrt()[:, None]


class UnrolledLoss:
    """Errors of the frames of a few segments in a row, the first from a noisy start.

    Later segments start where the network ended the one before, and gradients flow through.
    Errors are divided by each element's own change over the same time, positions and velocities
    apart, as in the curriculum of Hamiltonian EGNO.
    """

    def __init__(
        self,
        follow: Follow,
        paths: Paths,
        interval_fs: float,
        times_fs: Sequence[float],
        *,
        n_chain: int = 1,
        noise: float = 0.0,
    ) -> None:
        """Measure the scales.

        Args:
            follow: gives the network's frames at the times.
            paths: the training paths, frames every `interval_fs`.
            interval_fs: time between their frames.
            times_fs: times of a segment's frames, the last being its length.
            n_chain: segments in a row.
            noise: deviation of the start, as a share of the change over a segment.

        Raises:
            ValueError: if the paths are shorter than that.
        """
        self.frames = torch.tensor([round(t / interval_fs) for t in times_fs])
        self.span, self.n_chain = n_chain * int(self.frames[-1]), n_chain
        if paths.n_steps < self.span:
            raise ValueError(
                f"the windows cover {paths.n_steps * interval_fs:g} fs; {n_chain} segments of "
                f"{times_fs[-1]:g} fs need longer ones"
            )
        self.follow, self.paths, self.noise = follow, paths, noise
        x, v, z = paths.positions, paths.velocities, paths.molecule.numbers
        after = self.frames.tolist()
        self.moved = torch.stack([_of_element(x[:, k] - x[:, 0], z) for k in after])
        self.turned = torch.stack([_of_element(v[:, k] - v[:, 0], z) for k in after])

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw windows, where in them to start, and noise for the start.

        Args:
            batch_size: number of samples.
            generator: source of randomness.

        Returns:
            Positions and velocities `(batch, n_chain * n_frames + 1, n_atoms, 3)` of the frames,
            then their noise at the start `(batch, n_atoms, 3)`.
        """
        n = self.paths.positions.shape[0]
        which = torch.randint(n, (batch_size,), generator=generator)
        last = self.paths.n_steps - self.span
        begin = torch.randint(last + 1, (batch_size,), generator=generator)
        x, v = self._cut(which, begin)
        noise = [torch.randn(x[:, 0].shape, generator=generator).to(x) for _ in range(2)]
        scales = (self.noise * self.moved[-1], self.noise * self.turned[-1])
        return x, v, scales[0] * noise[0], scales[1] * noise[1]

    def from_the_start(self) -> Batch:
        """Return all windows from their first frame on, without noise: a batch to validate on."""
        n = self.paths.positions.shape[0]
        x, v = self._cut(torch.arange(n), torch.zeros(n, dtype=torch.int64))
        return x, v, torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])

    def _cut(self, which: Tensor, begin: Tensor) -> tuple[Tensor, Tensor]:
        step = int(self.frames[-1])
        parts = [self.frames + k * step for k in range(self.n_chain)]
        frames = begin[:, None] + torch.cat([torch.zeros(1, dtype=torch.int64), *parts])
        paths = self.paths
        return paths.positions[which[:, None], frames], paths.velocities[which[:, None], frames]

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Measures]:
        """Return the loss of a batch and its two parts."""
        x, v, noise_x, noise_v = batch
        now_x, now_v = x[:, 0] + noise_x, v[:, 0] + noise_v
        error_x, error_v = x.new_zeros(()), x.new_zeros(())
        n = len(self.frames)
        for k in range(self.n_chain):
            true = slice(k * n + 1, (k + 1) * n + 1)
            xs, vs = self.follow(network, now_x, now_v)
            error_x = error_x + ((xs - x[:, true]) / self.moved).square().mean() / self.n_chain
            error_v = error_v + ((vs - v[:, true]) / self.turned).square().mean() / self.n_chain
            now_x, now_v = xs[:, -1], vs[:, -1]
        measures = {"position": error_x.detach().sqrt(), "velocity": error_v.detach().sqrt()}
        # The root weighs batches alike whatever their temperature.
        return (error_x + error_v).sqrt(), measures
