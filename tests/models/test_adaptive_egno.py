"""Adaptive EGNO: symmetries, conservation, and its behaviour in time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from egno_md.models.adaptive_egno import AdaptiveEGNO

PAIRS = torch.triu_indices(4, 4, 1)
TIMES = torch.tensor([0.3, 0.05, 0.8], dtype=torch.float64)


def network(**options: float) -> AdaptiveEGNO:
    """A network with random weights in every part, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = AdaptiveEGNO(1, n_hidden=8, n_radial=6, **options).double()  # type: ignore[arg-type]
        for weight in (made.of_message.weight, made.of_radial.weight, made.of_node.weight):
            torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


def start() -> tuple[Tensor, Tensor, Tensor]:
    """Positions, velocities and pair features of two graphs."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    v = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    charge = torch.tensor([[1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]], dtype=torch.float64)
    return x, v, (charge[:, PAIRS[0]] * charge[:, PAIRS[1]])[..., None]


def test_forces_are_minus_the_gradient_of_the_potential() -> None:
    model, (x, _, e) = network(), start()
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(model.potential(x, e, PAIRS).sum(), x)
    forces, _ = model.forces(x, e, PAIRS)
    assert forces.abs().max() > 0.1
    assert torch.allclose(forces, -gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_commutes_with_rotations_reflections_and_shifts(sign: float) -> None:
    model, (x, v, e) = network(), start()
    generator = torch.Generator().manual_seed(1)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    turn = turn * sign * torch.sign(torch.linalg.det(turn))
    shift = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    paths, velocities = model(x, v, e, PAIRS, TIMES)
    turned, spun = model(x @ turn + shift, v @ turn, e, PAIRS, TIMES)
    assert torch.allclose(turned, paths @ turn + shift, atol=1e-10)
    assert torch.allclose(spun, velocities @ turn, atol=1e-10)


def test_it_commutes_with_permutations() -> None:
    model, (x, v, e) = network(), start()
    order = torch.tensor([2, 0, 3, 1])
    back = order.argsort()
    paths, _ = model(x, v, e, PAIRS, TIMES)
    # Pairs named by the new numbers, some of them the other way round.
    permuted, _ = model(x[:, order], v[:, order], e, back[PAIRS], TIMES)
    assert torch.allclose(permuted, paths[:, :, order], atol=1e-10)


def test_momentum_is_conserved_and_the_centre_flies_freely() -> None:
    model, (x, v, e) = network(), start()
    masses = torch.tensor([[1.0, 2.0, 3.0, 0.5]] * 2, dtype=torch.float64)
    paths, velocities = model(x, v, e, PAIRS, TIMES, masses)
    weight = masses[:, None, :, None]
    before = (masses[..., None] * v).sum(1, keepdim=True)
    assert (velocities - v[:, None]).abs().max() > 0.01
    assert ((weight * velocities).sum(2) - before).abs().max() < 1e-12
    free = (masses[..., None] * x).sum(1, keepdim=True) + TIMES[:, None] * before
    assert ((weight * paths).sum(2) - free).abs().max() < 1e-12


def test_it_starts_at_the_start_with_the_start_s_slope() -> None:
    model, (x, v, e) = network(), start()
    times = torch.tensor([0.0, 1e-5], dtype=torch.float64)
    paths, velocities = model(x, v, e, PAIRS, times)
    assert torch.equal(paths[:, 0], x)
    assert torch.equal(velocities[:, 0], v)
    assert torch.allclose((paths[:, 1] - x) / 1e-5, v, atol=1e-3)
    assert torch.allclose(velocities[:, 1], v, atol=1e-3)


def test_any_times_in_any_order_give_the_same_states() -> None:
    model, (x, v, e) = network(), start()
    few, slopes = model(x, v, e, PAIRS, TIMES)
    more = torch.tensor([0.8, 0.1, 0.3, 0.7, 0.05], dtype=torch.float64)
    many, other = model(x, v, e, PAIRS, more)
    assert torch.equal(many[:, [2, 4, 0]], few)
    assert torch.equal(other[:, [2, 4, 0]], slopes)
    assert model(x, v, e, PAIRS, more[:1])[0].shape == (2, 1, 4, 3)


def test_velocities_are_slopes_of_the_positions() -> None:
    model, (x, v, e) = network(), start()
    times = torch.tensor([0.4 - 1e-6, 0.4, 0.4 + 1e-6], dtype=torch.float64)
    paths, velocities = model(x, v, e, PAIRS, times)
    assert torch.allclose((paths[:, 2] - paths[:, 0]) / 2e-6, velocities[:, 1], atol=1e-5)


def test_finer_steps_converge() -> None:
    model, (x, v, e) = network(), start()
    found = []
    for step in (0.16, 0.02, 0.0025):
        model.phase_step = step
        found.append(model(x, v, e, PAIRS, TIMES)[0])
    coarse, fine = ((path - found[2]).abs().max() for path in found[:2])
    assert coarse < 0.01
    assert fine < coarse / 8.0


def test_without_training_it_flies_freely() -> None:
    x, v, e = start()
    model = AdaptiveEGNO(1).double()
    paths, _ = model(x, v, e, PAIRS, TIMES)
    free = x[:, None] + TIMES[:, None, None] * v[:, None]
    assert torch.allclose(paths, free, atol=1e-12)


def test_bad_input_is_refused() -> None:
    model, (x, v, e) = network(), start()
    with pytest.raises(ValueError, match="times must be"):
        model(x, v, e, PAIRS, torch.tensor([-0.1], dtype=torch.float64))
    with pytest.raises(ValueError, match="pair_features must have shape"):
        model(x, v, e[:, :3], PAIRS, TIMES)
    with pytest.raises(ValueError, match="velocities have shape"):
        model(x, v[:, :3], e, PAIRS, TIMES)
    with pytest.raises(ValueError, match="slowest < fastest"):
        AdaptiveEGNO(1, slowest=2.0, fastest=1.0)
    with pytest.raises(ValueError, match="n_radial must be at least 2"):
        AdaptiveEGNO(1, n_radial=1)
