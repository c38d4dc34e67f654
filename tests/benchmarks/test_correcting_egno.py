from __future__ import annotations

import pytest
import torch

from egno_md.benchmarks.correcting_egno import CorrectingEGNO, LineGuess
from egno_md.benchmarks.paper_training import linear_baselines, path_errors
from egno_md.benchmarks.paths import PathBatch, Paths, PathTask


def some_paths(n=6, nodes=5, seed=0):
    own = torch.Generator().manual_seed(seed)
    x = torch.randn(n, nodes, 3, generator=own)
    v = torch.randn(n, nodes, 3, generator=own)
    times = torch.tensor([1.0, 2.0, 3.0, 4.0])
    noise = 0.1 * torch.randn(n, 4, nodes, 3, generator=own)
    edges = torch.tensor([(i, j) for i in range(nodes) for j in range(nodes) if i != j]).T
    squared = (x[:, edges[0]] - x[:, edges[1]]).square().sum(-1, keepdim=True)
    targets = x[:, None] + 0.5 * times[:, None, None] * v[:, None] + noise
    return Paths(x, v, targets, times, v.norm(dim=-1, keepdim=True), edges, squared)


@pytest.fixture
def task():
    return PathTask("some", some_paths(), some_paths(seed=1), some_paths(seed=2))


def made(task, **options):
    torch.manual_seed(3)
    options = {"first_step": 1.0} | options
    return CorrectingEGNO(task, LineGuess(task.training), 8, 2, **options).eval()


def test_the_line_is_the_best_line_of_training(task):
    errors = path_errors(LineGuess(task.training), task.test)
    assert errors.tolist() == pytest.approx(linear_baselines(task)["x + c v"].mse, rel=1e-5)


@pytest.mark.parametrize("use_time_conv", [True, False])
def test_without_a_first_step_it_is_the_guess(task, use_time_conv):
    batch = task.test.batch(torch.arange(3))
    model = made(task, use_time_conv=use_time_conv, first_step=0.0)
    torch.testing.assert_close(model(batch), model.guess(batch))
    other = made(task, use_time_conv=use_time_conv)
    assert (other(batch) - model(batch)).abs().max() > 1e-3


def test_turned_and_shifted_starts_give_turned_and_shifted_paths(task):
    batch, model = task.test.batch(torch.arange(3)), made(task)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)))[0]
    shift = torch.tensor([3.0, -2.0, 1.0])
    moved = PathBatch(
        batch.positions @ turn.T + shift,
        batch.velocities @ turn.T,
        batch.targets,
        batch.times,
        batch.node_features,
        batch.edge_index,
        batch.edge_features,
        batch.edges,
    )
    torch.testing.assert_close(model(moved), model(batch) @ turn.T + shift, atol=2e-5, rtol=1e-5)


def test_samples_of_a_batch_do_not_see_each_other(task):
    model = made(task, kinds=torch.tensor([0, 1, 2, 2, 3]))
    together = model(task.test.batch(torch.tensor([0, 1, 4])))
    alone = model(task.test.batch(torch.tensor([4])))
    torch.testing.assert_close(together[2:], alone, atol=1e-5, rtol=0)


def test_labels_tell_nodes_apart(task):
    model, plain = made(task, kinds=torch.tensor([0, 1, 2, 2, 3])), made(task)
    swap = torch.tensor([1, 0, 2, 3, 4])
    batch = task.test.batch(torch.tensor([0]))
    same = {(int(i), int(j)): k for k, (i, j) in enumerate(batch.edge_index.T)}
    order = [same[int(swap[i]), int(swap[j])] for i, j in batch.edge_index.T]
    swapped = PathBatch(
        batch.positions[:, swap],
        batch.velocities[:, swap],
        batch.targets[:, :, swap],
        batch.times,
        batch.node_features[:, swap],
        batch.edge_index,
        batch.edge_features[order],
        batch.edges,
    )
    torch.testing.assert_close(plain(swapped), plain(batch)[:, :, swap], atol=1e-5, rtol=0)
    assert (model(swapped) - model(batch)[:, :, swap]).abs().max() > 1e-4


def test_every_weight_but_the_last_features_learns(task):
    model = made(task, kinds=torch.tensor([0, 1, 2, 2, 3])).train()
    batch = task.training.batch(torch.arange(4))
    (model(batch) - batch.targets).square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert all("layers.1.node_net" in name for name in idle)
    assert len(idle) == 4
