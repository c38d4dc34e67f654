"""Frames at any times between the frames that a reversible map gives.

Between two frames the path is the polynomial of eleventh degree that has the positions and the
velocities of these two, of the two before and of the two after (Hermite). The map itself gives
them: it goes two steps further, and from the start two steps back. For a vibration that turns by
2 rad in a step the path is then right to 2e-4 of its amplitude, without knowing a force. It goes
through the frames exactly and joins them with continuous velocities. It is linear in what it is
given, so it turns and shifts with it, and where momentum is conserved, so it is in between.
Angular momentum, which is quadratic, is exact at the frames only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

#: Frames on either side of an interval that its polynomial knows besides its own two.
REACH: Final = 2

#: Times closer to a frame than this share of the interval are that frame.
_SAME = 1e-9

# Where the frames lie that belong to an interval, which goes from 0 to 1.
_NODES = tuple(float(k) for k in range(-REACH, REACH + 2))

#: Positions and velocities `(n_replicas, n_atoms, 3)` and a number of steps, to those after each
#: step, `(n_replicas, n_steps, n_atoms, 3)`.
Advance = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


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
    """Weights of the frames' positions x and velocities T v, and their slopes.

    With l_k the Lagrange polynomials of the nodes s_k, they are (1 - 2 l_k'(s_k) (s - s_k)) l_k^2
    for x_k and (s - s_k) l_k^2 for T v_k.

    Args:
        s: `(n_times,)`, share of the interval that has passed, 0 to 1.

    Returns:
        `(n_times, 12)` for the position, in the order x of the six frames, then T v; and their
        derivatives with respect to s.
    """
    nodes = torch.tensor(_NODES, dtype=s.dtype, device=s.device)
    to, to_slope = [], []
    for k in range(len(nodes)):
        others = torch.cat([nodes[:k], nodes[k + 1 :]])
        factors = (s[:, None] - others) / (nodes[k] - others)
        value = factors.prod(1)
        # The slope of a product: each factor's slope times the other factors.
        slope = sum(
            factors[:, [j for j in range(len(others)) if j != i]].prod(1) / (nodes[k] - others[i])
            for i in range(len(others))
        )
        at_node = (1.0 / (nodes[k] - others)).sum()
        away = s - nodes[k]
        twice = 2.0 * value * slope
        line = 1.0 - 2.0 * at_node * away
        to += [line * value**2, away * value**2]
        to_slope += [line * twice - 2.0 * at_node * value**2, away * twice + value**2]
    order = [*range(0, len(to), 2), *range(1, len(to), 2)]
    return torch.stack(to, 1)[:, order], torch.stack(to_slope, 1)[:, order]


def path_at_times(
    times_fs: Tensor, step_fs: float, positions: Tensor, velocities: Tensor, advance: Advance
) -> tuple[Tensor, Tensor]:
    """Follow a reversible map from a start and read its path at some times.

    Args:
        times_fs: `(n_times,)` after the start, any order, none negative.
        step_fs: T, the time between frames of the map.
        positions: `(n_replicas, n_atoms, 3)`, Å, of the start.
        velocities: same shape, Å/fs.
        advance: applies the map several times.

    Returns:
        Positions and velocities `(n_replicas, n_times, n_atoms, 3)`: those of the start at 0, the
        map's own at multiples of its step.

    Raises:
        ValueError: if there are no times, or one is negative or not finite.
    """
    n_steps = steps_to_cover(times_fs, step_fs)
    place = times_fs.to(positions.device, torch.float64) / step_fs
    nearest = place.round()
    place = torch.where((place - nearest).abs() < _SAME, nearest, place)
    between = place != nearest
    margin = REACH if bool(between.any()) else 0
    x, v = advance(positions, velocities, n_steps + margin)
    xs, vs = [positions[:, None], x], [velocities[:, None], v]
    if margin:
        x, v = advance(positions, -velocities, margin)
        xs, vs = [x.flip(1), *xs], [-v.flip(1), *vs]
    x, v = torch.cat(xs, 1), torch.cat(vs, 1)
    known = nearest.to(torch.int64) + margin
    at_x, at_v = x[:, known], v[:, known]
    if margin:
        at_x[:, between], at_v[:, between] = _joined(place[between], step_fs, x, v)
    return at_x, at_v


def _joined(place: Tensor, step_fs: float, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The polynomials at some places, counted in steps from frame `REACH`."""
    first = place.floor().to(torch.int64)
    rows = first[:, None] + torch.arange(len(_NODES), device=place.device)
    given = torch.cat([x[:, rows], step_fs * v[:, rows]], 2)
    at, slope = (weights.to(given) for weights in hermite_weights(place - first))
    return (
        torch.einsum("rtkai,tk->rtai", given, at),
        torch.einsum("rtkai,tk->rtai", given, slope) / step_fs,
    )
