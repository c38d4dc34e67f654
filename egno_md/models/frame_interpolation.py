"""Frames at any times between the frames that a map gives.

Between two frames the path is the polynomial of fifth degree that has their positions, velocities
and accelerations (quintic Hermite). It goes through the frames exactly and joins them with
continuous velocities and accelerations. It is linear in what it is given, so it turns and shifts
with it, and where momentum is conserved and forces add up to zero, so they do in between.
Angular momentum, which is quadratic, is exact at the frames only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

#: Times closer to a frame than this share of the interval are that frame.
_SAME = 1e-9

# Powers of s, lowest first, of the six polynomials that belong to x, T v and T^2 a at s = 0 and
# then at s = 1.
_POLYNOMIALS = (
    (1.0, 0.0, 0.0, -10.0, 15.0, -6.0),
    (0.0, 1.0, 0.0, -6.0, 8.0, -3.0),
    (0.0, 0.0, 0.5, -1.5, 1.5, -0.5),
    (0.0, 0.0, 0.0, 10.0, -15.0, 6.0),
    (0.0, 0.0, 0.0, -4.0, 7.0, -3.0),
    (0.0, 0.0, 0.0, 0.5, -1.0, 0.5),
)


def steps_to_cover(times_fs: Tensor, step_fs: float) -> int:
    """Count the steps that reach the last of some times, at least one.

    Args:
        times_fs: `(n_times,)` after the start, any order.
        step_fs: time between frames.

    Raises:
        ValueError: if there are no times, or one is negative or not finite.
    """
    if times_fs.ndim != 1 or not len(times_fs):
        raise ValueError(f"times_fs must be a list of times, got shape {tuple(times_fs.shape)}")
    wrong = ~(torch.isfinite(times_fs) & (times_fs >= 0))
    if bool(wrong.any()):
        raise ValueError(
            f"a frame is asked for {float(times_fs[wrong][0])} fs after the start; times must be "
            "finite and not negative"
        )
    return max(1, math.ceil(float(times_fs.max()) / step_fs - _SAME))


def hermite_weights(s: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the frames' positions, velocities and accelerations, and their slopes.

    Args:
        s: `(n_times,)`, share of the interval that has passed, 0 to 1.

    Returns:
        `(n_times, 6)` for the position, in the order x, T v, T^2 a of the first frame and then
        of the second; and their derivatives with respect to s.
    """
    polynomials = torch.tensor(_POLYNOMIALS, dtype=s.dtype, device=s.device)
    powers = torch.stack([s**k for k in range(6)], 1)
    slopes = torch.stack([k * s ** max(k - 1, 0) for k in range(6)], 1)
    return powers @ polynomials.T, slopes @ polynomials.T


def interpolate(
    times_fs: Tensor,
    step_fs: float,
    positions: Tensor,
    velocities: Tensor,
    acceleration: Callable[[int], Tensor],
) -> tuple[Tensor, Tensor]:
    """Read a path at some times.

    Args:
        times_fs: `(n_times,)` after the first frame, any order, none after the last frame.
        step_fs: T, the time between frames.
        positions: `(n_replicas, n_frames, n_atoms, 3)`, Å, at least two frames.
        velocities: same shape, Å/fs.
        acceleration: gives `(n_replicas, n_atoms, 3)`, Å/fs^2, at a frame; asked only for
            frames beside a time that is not a frame's own.

    Returns:
        Positions and velocities `(n_replicas, n_times, n_atoms, 3)`.
    """
    place = times_fs.to(positions.device, torch.float64) / step_fs
    nearest = place.round()
    place = torch.where((place - nearest).abs() < _SAME, nearest, place)
    first = place.floor().clamp(max=positions.shape[1] - 2).to(torch.int64)
    s = place - first
    inside = (s > 0) & (s < 1)
    asked = set(first[inside].tolist()) | set((first[inside] + 1).tolist())
    pushes = torch.stack(
        [
            acceleration(k).to(positions) if k in asked else torch.zeros_like(positions[:, k])
            for k in range(positions.shape[1])
        ],
        1,
    )
    known = (positions, step_fs * velocities, step_fs**2 * pushes)
    given = torch.stack([part[:, first + end] for end in (0, 1) for part in known], 0)
    at, slope = (weights.T[:, None, :, None, None].to(given) for weights in hermite_weights(s))
    return (at * given).sum(0), (slope * given).sum(0) / step_fs
