"""Reversible integration whose steps adapt to each graph, with states at any time.

A close encounter needs steps a hundred times shorter than free flight does. Plain adaptive
steps would drift; here the step is a variable of its own, leapfrogged with the rest (the
explicit adaptive Verlet of Huang and Leimkuhler, SIAM J. Sci. Comput. 18, 239 (1997)), so the
map stays time-reversible. With the force `F`, the frequency `Omega(x)` of the motion there,
masses `m` and the step `h` in units of phase:

| part | equation |
|---|---|
| half drift | `x' = x + h / (2 W) v` |
| kick | `v+ = v + h / Omega(x') F(x') / m` |
| frequency | `W+ = 2 Omega(x') - W` |
| half drift | `x+ = x' + h / (2 W+) v+`, `t+ = t + h / (2 W) + h / (2 W+)` |

| symbol | variable |
|---|---|
| W | `rate` |
| Omega | `frequency` |
| h | `phase_step` |

There is one force per step. `W+` is kept above a tenth of `Omega`; only where that acts does
the map lose its reversibility. Between steps positions are cubic Hermite polynomials in time,
and velocities their derivatives, which conserve linear momentum as the steps do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

#: The smallest rate after a step, as a fraction of the frequency there.
LEAST_RATE: Final = 0.1

#: `(positions (A, N, 3), active (A,)) -> (accelerations (A, N, 3), frequency (A,))`
Accelerate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class _Flow:
    """States of the graphs that are still under way, `A` of `B`."""

    active: Tensor  # (A,) numbers of the graphs
    x: Tensor  # (A, N, 3)
    v: Tensor  # (A, N, 3)
    t: Tensor  # (A,)
    rate: Tensor  # (A,)

    def stepped(self, accelerate: Accelerate, phase_step: float) -> _Flow:
        """The states after one step."""
        first = 0.5 * phase_step / self.rate
        middle = self.x + first[:, None, None] * self.v
        acceleration, frequency = accelerate(middle, self.active)
        frequency = frequency.detach()  # it chooses the steps, it is not the motion
        rate = torch.maximum(2.0 * frequency - self.rate, LEAST_RATE * frequency)
        last = 0.5 * phase_step / rate
        v = self.v + (phase_step / frequency)[:, None, None] * acceleration
        x = middle + last[:, None, None] * v
        return _Flow(self.active, x, v, self.t + first + last, rate)

    def only(self, kept: Tensor) -> _Flow:
        """The states of some of the graphs."""
        return _Flow(self.active[kept], self.x[kept], self.v[kept], self.t[kept], self.rate[kept])


def follow(
    accelerate: Accelerate,
    positions: Tensor,
    velocities: Tensor,
    times: Tensor,
    phase_step: float,
    gradient_bound: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Follow every graph and give its states at the times asked for.

    Args:
        accelerate: takes positions and the numbers of their graphs to accelerations, and to
            frequencies (positive and bounded, which bounds the number of steps).
        positions: `(B, N, 3)`, any unit of length.
        velocities: `(B, N, 3)`, that unit per unit of time.
        times: `(P,)`, not negative, in any order.
        phase_step: step in units of phase, frequency times time.

    Returns:
        positions and velocities `(B, P, N, 3)`; at time 0 those given.

    Raises:
        ValueError: if there are no times, or one is negative or not finite.
    """
    if times.ndim != 1 or not len(times) or not bool((times >= 0).all() & times.isfinite().all()):
        raise ValueError(f"times must be a list of finite numbers >= 0, got {times.tolist()}")
    count, end = positions.shape[0], times.max()
    everything = torch.arange(count, device=positions.device)
    _, rate = accelerate(positions, everything)
    now = _Flow(everything, positions, velocities, times.new_zeros(count), rate.detach())
    graph, point = (times <= 0)[None].expand(count, -1).nonzero(as_tuple=True)
    # Where each found state belongs in the result, its position and its velocity.
    found = [(graph * len(times) + point, positions[graph], velocities[graph])]
    now = now.only(now.t < end)
    while len(now.active):
        after = now.stepped(accelerate, phase_step)
        if gradient_bound is not None and after.x.requires_grad:
            _bound_gradient(after.x, gradient_bound)
            _bound_gradient(after.v, gradient_bound)
        passed = (now.t[:, None] < times) & (times <= after.t[:, None])
        row, point = passed.nonzero(as_tuple=True)
        if len(row):
            x, v = _between(now.only(row), after.only(row), times[point])
            found.append((now.active[row] * len(times) + point, x, v))
        now = after.only(after.t < end)
    place = torch.cat([f[0] for f in found]).argsort()
    shape = (count, len(times), *positions.shape[1:])
    return (
        torch.cat([f[1] for f in found])[place].view(shape),
        torch.cat([f[2] for f in found])[place].view(shape),
    )


def _bound_gradient(state: Tensor, bound: float) -> None:
    """Let no graph of a chaotic state pass back more gradient than the bound."""

    def shorten(gradient: Tensor) -> Tensor:
        gradient = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
        size = gradient.square().sum((1, 2)).sqrt()
        return gradient * (bound * size.clamp(min=bound).reciprocal())[:, None, None]

    state.register_hook(shorten)  # type: ignore[no-untyped-call]


def _between(before: _Flow, after: _Flow, time: Tensor) -> tuple[Tensor, Tensor]:
    """Cubic Hermite interpolation of positions, and its derivative."""
    length = (after.t - before.t)[:, None, None]
    u = (time - before.t)[:, None, None] / length
    rise = after.x - before.x
    bend = length * (before.v + after.v) - 2.0 * rise
    sag = 3.0 * rise - length * (2.0 * before.v + after.v)
    x = before.x + u * (length * before.v + u * (sag + u * bend))
    v = before.v + u * (2.0 * sag + 3.0 * u * bend) / length
    return x, v
