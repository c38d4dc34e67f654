"""The simulated N-body system obeys its physics."""

import math

import pytest
import torch

from egno_md.data.nbody_simulation import (
    LARGEST_FORCE,
    START_SPEED,
    charge_forces,
    random_starts,
    simulate_charges,
)


@pytest.fixture
def starts():
    return random_starts(40, 5, torch.Generator().manual_seed(3))


def test_starts(starts):
    x, v, charges = starts
    assert torch.allclose(v.norm(dim=-1), torch.full((40, 5), START_SPEED, dtype=torch.float64))
    assert set(charges.unique().tolist()) == {-1.0, 1.0}
    again = random_starts(40, 5, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(starts, again, strict=True))
    assert abs(float(x.std()) - 1.0) < 0.1


def test_like_charges_repel_by_the_inverse_square():
    x = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64).T[:, :, None]
    same = charge_forces(x, torch.tensor([[1.0], [1.0]], dtype=torch.float64))
    assert same[..., 0].T.tolist() == [[-0.25, 0.0, 0.0], [0.25, 0.0, 0.0]]
    opposite = charge_forces(x, torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
    assert torch.equal(opposite, -same)


def test_forces_are_the_gradient_of_the_energy(starts):
    x, _, q = starts
    x = (2.0 * x).requires_grad_()
    apart = (x[:, :, None] - x[:, None]).square().sum(-1) + torch.eye(5, dtype=torch.float64)
    pairs = torch.triu(torch.ones(5, 5), diagonal=1)
    energy = (q[:, :, None] * q[:, None] * pairs / apart.sqrt()).sum()
    (gradient,) = torch.autograd.grad(energy, x)
    found = charge_forces(x.detach().permute(2, 1, 0), q.T).permute(2, 1, 0)
    calm = gradient.abs().amax((1, 2)) < LARGEST_FORCE
    assert calm.sum() > 30
    assert torch.allclose(found[calm], -gradient[calm], rtol=1e-10, atol=1e-10)


def test_close_particles_are_not_thrown_out():
    x = torch.tensor([[0.0, 0.0, 0.0], [1e-3, 0.0, 0.0]], dtype=torch.float64).T[:, :, None]
    force = charge_forces(x, torch.ones(2, 1, dtype=torch.float64))
    assert force[..., 0].T.tolist() == [[-LARGEST_FORCE, 0.0, 0.0], [LARGEST_FORCE, 0.0, 0.0]]


def test_momentum_stays(starts):
    x, v, charges = starts
    # Far apart and repelling, so that no force is cut: a cut one has no equal partner.
    _, found = simulate_charges(3.0 * x, v, torch.ones_like(charges), 4)
    momentum = found.sum(2)
    assert (momentum - momentum[:, :1]).abs().max() < 1e-12


def test_smaller_steps_converge_in_first_order(starts):
    # `v` before the kick lags half a step behind, so as a start it is off by a first-order term.
    x, v, q = (t[:10] for t in starts)
    x = 3.0 * x
    ends = [
        simulate_charges(x, v, q, 2, time_step=0.4 / n, steps_per_frame=n)[0][:, -1]
        for n in (10, 20, 400)
    ]
    coarse, fine = ((end - ends[2]).abs().max() for end in ends[:2])
    assert 1.7 < coarse / fine < 2.4
    assert fine < 1e-2


def test_free_particles_fly_straight():
    x = torch.zeros(1, 1, 3, dtype=torch.float64)
    v = torch.tensor([[[1.0, 2.0, -1.0]]], dtype=torch.float64)
    found, speed = simulate_charges(x, v, torch.ones(1, 1), 3, first_frame=2)
    expected = v[:, None] * torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64)[:, None, None]
    assert torch.allclose(found, expected, atol=1e-12)
    assert torch.equal(speed, v[:, None].expand_as(speed))


def test_blocks_do_not_matter(starts, monkeypatch):
    whole = simulate_charges(*starts, 2)[0]
    monkeypatch.setattr("egno_md.data.nbody_simulation._BLOCK", 7)
    assert torch.allclose(simulate_charges(*starts, 2)[0], whole, rtol=0, atol=1e-9)


def test_two_at_one_place_are_refused():
    x = torch.full((1, 2, 3), math.nan, dtype=torch.float64)
    with pytest.raises(ValueError, match="same place"):
        simulate_charges(x, torch.zeros_like(x), torch.ones(1, 2), 2)


def test_no_particles_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        random_starts(3, 0, torch.Generator())
