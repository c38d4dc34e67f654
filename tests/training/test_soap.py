"""SOAP: what it reduces to, what it gains, and that its state can be stored."""

import pytest
import torch
from torch import nn

from egno_md.models.degree_layers import DegreeLinear
from egno_md.training.loop import make_optimizer
from egno_md.training.settings import FitSettings
from egno_md.training.soap import SOAP


def groups(*weights):
    return [{"params": list(weights)}]


def quadratic_end(make, steps=150):
    """Loss of an ill-conditioned linear regression after some steps."""
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    inputs = torch.randn(64, 8, generator=generator) * torch.logspace(0, -2, 8) @ turn
    targets = inputs @ torch.randn(8, 5, generator=generator)
    weight = nn.Parameter(torch.zeros(8, 5))
    optimizer = make([weight])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        optimizer.zero_grad()
        loss = (inputs @ weight - targets).square().mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_beats_adam_where_the_axes_are_mixed():
    soap = quadratic_end(lambda w: SOAP(groups(*w), 0.1))
    adam = quadratic_end(lambda w: torch.optim.AdamW(w, lr=0.1, weight_decay=0.0))
    assert soap < 0.5 * adam


@pytest.mark.parametrize("shape", [(6,), (1, 6), (6, 1), (7, 3)])
def test_adam_for_what_is_not_preconditioned(shape):
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(shape, generator=generator)
    gradients = torch.randn(5, *shape, generator=generator)
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    soap = SOAP(groups(mine), 0.01, weight_decay=0.1, largest_side=6)
    adam = torch.optim.AdamW([theirs], lr=0.01, betas=(0.95, 0.95), weight_decay=0.1)
    mine.grad = torch.ones(shape)
    soap.step()  # starts the state only
    assert torch.equal(mine, start)
    for gradient in gradients:
        mine.grad, theirs.grad = gradient, gradient
        soap.step()
        adam.step()
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_turning_the_problem_turns_the_steps():
    # Adam in the eigenbasis does not see in which basis the weights are written.
    generator = torch.Generator().manual_seed(3)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    gradients = torch.randn(25, 4, 3, generator=generator, dtype=torch.float64)
    ends = []
    for matrix in (torch.eye(4, dtype=torch.float64), turn):
        weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
        optimizer = SOAP(groups(weight), 0.01)
        for gradient in gradients:
            weight.grad = matrix @ gradient
            optimizer.step()
        ends.append(matrix.T @ weight.detach())
    assert torch.allclose(ends[0], ends[1], atol=2e-3)
    assert ends[0].abs().max() > 0.02


def test_stacks_are_matrices_of_their_own():
    generator = torch.Generator().manual_seed(4)
    gradients = torch.randn(12, 4, 3, 2, 2, generator=generator)
    whole = nn.Parameter(torch.zeros(4, 3, 2, 2))
    single = nn.Parameter(torch.zeros(4, 3))
    optimizers = [SOAP(groups(w), 0.01) for w in (whole, single)]
    for gradient in gradients:
        whole.grad, single.grad = gradient, gradient[:, :, 1, 0].clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(whole[:, :, 1, 0], single, atol=1e-5)


def test_matrices_by_degree_are_taken_over_their_last_two_axes():
    torch.manual_seed(6)
    model = nn.Sequential(DegreeLinear(2, 4, 3), nn.Linear(4, 4))
    whole = model[0].weight
    single = nn.Parameter(whole[1].detach().clone())
    settings = FitSettings(steps=1, optimizer="soap", learning_rate=0.01, weight_decay=0.1)
    mine = make_optimizer(model, settings)
    assert sum(len(g["params"]) for g in mine.param_groups) == len(list(model.parameters()))
    optimizers = [mine, SOAP(groups(single), 0.01, weight_decay=0.1)]
    for gradient in torch.randn(12, 3, 4, 3):
        whole.grad, single.grad = gradient, gradient[1].clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(whole[1], single, atol=1e-5)
    assert not torch.allclose(whole[0], single, atol=1e-2)


def test_weights_without_gradient_stay():
    weight = nn.Parameter(torch.ones(3, 3))
    optimizer = SOAP(groups(weight), 0.1, weight_decay=1.0)
    optimizer.step()
    assert torch.equal(weight, torch.ones(3, 3))
    assert not optimizer.state[weight]


def test_bases_stay_orthonormal_and_state_is_stored_as_it_is():
    generator = torch.Generator().manual_seed(5)
    weight = nn.Parameter(torch.zeros(6, 4))
    optimizer = SOAP(groups(weight), 0.01, renew_every=3)
    for _ in range(20):
        weight.grad = torch.randn(6, 4, generator=generator)
        optimizer.step()
    state = optimizer.state[weight]
    for side in ("left", "right"):
        basis = state[f"{side}_basis"]
        assert torch.allclose(basis.T @ basis, torch.eye(len(basis)), atol=1e-5)
    # A checkpoint writes contiguous tensors; another layout would come back with other bits.
    assert all(isinstance(v, torch.Tensor) and v.is_contiguous() for v in state.values())


def test_chosen_by_the_settings():
    model = nn.Linear(3, 2)
    settings = FitSettings(steps=1, optimizer="soap", weight_decay=0.1)
    optimizer = make_optimizer(model, settings)
    assert isinstance(optimizer, SOAP)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
    with pytest.raises(ValueError, match="allowed are adamw and soap"):
        FitSettings(steps=1, optimizer="sgd")
