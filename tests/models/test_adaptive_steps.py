"""Adaptive steps: accuracy on a close encounter, reversibility, bounded gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from egno_md.models.adaptive_steps import follow


def attracted(x: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Kepler's problem about the origin, with its own frequency."""
    square = x.square().sum(-1, keepdim=True)
    stiffness = square.pow(-1.5)
    return -stiffness * x, stiffness[:, 0, 0].sqrt()


def comet() -> tuple[Tensor, Tensor, float]:
    """Start at the far end of an orbit of eccentricity 0.9, and its period."""
    x = torch.tensor([[[1.9, 0.0, 0.0]]], dtype=torch.float64)
    v = torch.tensor([[[0.0, (2 / 1.9 - 1) ** 0.5, 0.0]]], dtype=torch.float64)
    return x, v, 2 * torch.pi


def test_an_eccentric_orbit_closes() -> None:
    x, v, period = comet()
    calls: list[int] = []

    def counted(x: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return attracted(x, active)

    found, _ = follow(counted, x, v, torch.tensor([period], dtype=torch.float64), 0.01)
    # The nearest point is 19 times closer and its motion 83 times quicker.
    assert (found[:, 0] - x).norm() < 0.01
    assert len(calls) < 2500


def test_graphs_do_not_disturb_each_other() -> None:
    x, v, _ = comet()
    times = torch.tensor([1.0, 3.3], dtype=torch.float64)
    both, _ = follow(attracted, torch.cat((x, 0.5 * x)), torch.cat((v, v)), times, 0.1)
    assert torch.equal(both[:1], follow(attracted, x, v, times, 0.1)[0])
    assert torch.equal(both[1:], follow(attracted, 0.5 * x, v, times, 0.1)[0])


def test_the_way_back_leads_to_the_start() -> None:
    x, v, _ = comet()

    # A constant frequency, so that the end of a step is at a known time.
    def steady(x: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        return attracted(x, active)[0], x.new_ones(len(x))

    end = torch.tensor([1.0], dtype=torch.float64)
    there, slope = follow(steady, x, v, end, 0.125)
    back, _ = follow(steady, there[:, 0], -slope[:, 0], end, 0.125)
    assert (there[:, 0] - x).norm() > 0.1
    assert torch.allclose(back[:, 0], x, atol=1e-13)


def test_the_gradient_is_bounded_per_graph() -> None:
    x, v, _ = comet()
    x = torch.cat((x, x)).requires_grad_(True)
    scale = torch.tensor([1e6, 1e-6], dtype=torch.float64)
    gradients = []
    for bound in (None, 1e-3):
        found, _ = follow(
            attracted, x, torch.cat((v, v)), torch.tensor([6.0], dtype=torch.float64), 0.2, bound
        )
        gradients.append(torch.autograd.grad((found.sum((1, 2, 3)) * scale).sum(), x)[0])
    free, bounded = gradients
    assert free[0].norm() > 1e5
    assert bounded[0].norm() < 0.1 * free[0].norm()
    assert torch.equal(bounded[1], free[1])


def test_times_must_be_finite_and_not_negative() -> None:
    x, v, _ = comet()
    for times in ([], [-1.0], [float("nan")]):
        with pytest.raises(ValueError, match="times must be"):
            follow(attracted, x, v, torch.tensor(times, dtype=torch.float64), 0.1)
