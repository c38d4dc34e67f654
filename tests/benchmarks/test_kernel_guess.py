from __future__ import annotations

import math

import pytest
import torch

from egno_md.benchmarks import kernel_guess
from egno_md.benchmarks.kernel_guess import BodyFrame, KernelGuess
from egno_md.benchmarks.paths import Paths


def bodies(n, seed=0, nodes=4):
    """Bodies whose displacements are a smooth function of the start, in the body's own frame."""
    own = torch.Generator().manual_seed(seed)
    shape = torch.randn(1, nodes, 3, generator=torch.Generator().manual_seed(9)) * 10
    x = shape + 5 * torch.randn(n, nodes, 3, generator=own)
    v = torch.tensor([0.2, 0.0, 1.0]) + 0.05 * torch.randn(n, nodes, 3, generator=own)
    frame = BodyFrame(x, v)
    inside = frame.vectors_in(v).flip(1) + 0.1 * frame.positions_in(x).roll(1, 1)
    moved = frame.vectors_out(inside)
    targets = x[:, None] + torch.tensor([1.0, 2.0])[:, None, None] * moved[:, None]
    edges = torch.tensor([[0, 1], [1, 0]])
    return Paths(x, v, targets, torch.tensor([1.0, 2.0]), v.norm(dim=-1, keepdim=True), edges,
                 torch.ones(n, 2, 1))  # fmt: skip


def everything(paths):
    return paths.batch(torch.arange(len(paths)))


def error(guess, paths):
    batch = everything(paths)
    return float((guess(batch) - batch.targets).square().mean())


def test_a_linear_law_is_learned_and_holds_for_others():
    train, other = bodies(150), bodies(20, seed=1)
    guess = KernelGuess(train, torch.arange(150) % 3).eval()
    by_mean = KernelGuess(train, torch.arange(150) % 3).eval()
    by_mean.coefficients.zero_()
    assert error(guess, other) < 0.03 * error(by_mean, other)


def test_turning_about_the_vertical_and_shifting_along_the_ground_change_nothing():
    train = bodies(30)
    guess = KernelGuess(train, torch.arange(30) % 2).eval()
    batch = everything(bodies(5, seed=2))
    angle = 1.1
    sin, cos = math.sin(angle), math.cos(angle)
    turn = torch.tensor([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
    shift = torch.tensor([5.0, 0.0, -7.0])
    moved = type(batch)(
        batch.positions @ turn.T + shift,
        batch.velocities @ turn.T,
        batch.targets,
        *(getattr(batch, k) for k in ("times", "node_features", "edge_index", "edge_features")),
        batch.edges,
    )
    torch.testing.assert_close(guess(moved), guess(batch) @ turn.T + shift, atol=1e-4, rtol=0)


def test_in_training_a_sample_is_guessed_from_the_other_groups():
    train = bodies(24)
    groups = torch.arange(24) // 8
    guess = KernelGuess(train, groups)
    kept = (groups != 1).nonzero()[:, 0]
    others = Paths(
        train.positions[kept], train.velocities[kept], train.targets[kept], train.times,
        train.node_features[kept], train.edges, train.edge_features[kept],
    )  # fmt: skip
    without = KernelGuess(others, torch.arange(16) // 8).eval()
    batch = train.batch(torch.tensor([9, 12]))
    torch.testing.assert_close(guess.train()(batch), without(batch), atol=1e-4, rtol=0)
    assert (guess.eval()(batch) - without(batch)).abs().max() > 1e-3


def test_it_is_a_ridge_regression(monkeypatch):
    monkeypatch.setattr(kernel_guess, "RIDGE", 1e6)
    train = bodies(12)
    guess = KernelGuess(train, torch.arange(12) % 2).eval()
    batch = everything(train)
    frame = BodyFrame(batch.positions, batch.velocities)
    mean = frame.vectors_in(batch.targets - batch.positions[:, None]).mean(0)
    expected = batch.positions[:, None] + frame.vectors_out(mean.expand(12, -1, -1, -1))
    torch.testing.assert_close(guess(batch), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("groups", [torch.zeros(6).long(), torch.tensor([0, 2, 0, 2, 0, 2])])
def test_groups_are_checked(groups):
    with pytest.raises(ValueError, match="at least two groups"):
        KernelGuess(bodies(6), groups)


def test_mirror_images_of_known_samples_are_known():
    train = bodies(40)
    twins = torch.tensor([1, 0, 2, 3])
    guess = KernelGuess(train, torch.arange(40) % 2, twins).eval()
    batch = everything(bodies(4, seed=2))
    across = torch.tensor([-1.0, 1.0, 1.0])
    mirrored = type(batch)(
        batch.positions[:, twins] * across,
        batch.velocities[:, twins] * across,
        batch.targets,
        *(getattr(batch, k) for k in ("times", "node_features", "edge_index", "edge_features")),
        batch.edges,
    )
    expected = guess(batch)[:, :, twins] * across
    torch.testing.assert_close(guess(mirrored), expected, atol=1e-3, rtol=0)
    plain = KernelGuess(train, torch.arange(40) % 2).eval()
    assert (plain(mirrored) - plain(batch)[:, :, twins] * across).abs().max() > 0.1
