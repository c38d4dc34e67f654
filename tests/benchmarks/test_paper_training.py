"""Training and tables of the paper's tasks, at toy size."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.paper_training import (
    PublishedEGNO,
    Recipe,
    linear_baselines,
    path_errors,
    published_recipe,
    seeded,
    train_row,
)
from egno_md.benchmarks.path_table import Row, measure_rows
from egno_md.benchmarks.paths import Paths, PathTask

FACTORS = torch.tensor([0.3, 0.8])


def straight(n, seed):
    """Nodes that fly straight at 0.6 and 0.8 of their speed."""
    generator = torch.Generator().manual_seed(seed)
    x, v = torch.randn(2, n, 3, 3, generator=generator)
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
    return Paths(
        x,
        v,
        x[:, None] + FACTORS[:, None, None] * v[:, None],
        torch.tensor([0.5, 1.0]),
        v.norm(dim=-1, keepdim=True),
        edges,
        torch.zeros(n, 3, 1),
    )


@pytest.fixture(scope="module")
def task():
    return PathTask("straight", straight(50, 1), straight(20, 2), straight(20, 3))


RECIPE = Recipe(4, batch_size=10, learning_rate=1e-2, validate_every_epochs=1, warmup_epochs=0.5)


def small(task):
    return PublishedEGNO(task, 8, 2)


def test_linear_baselines_are_exact_where_they_should_be(task):
    found = linear_baselines(task)
    assert found["x + c v"].f_mse < 1e-12
    assert found["x + c v"].n_parameters == 2
    expected = (
        (task.training.times - FACTORS).double() ** 2
    ) * task.test.velocities.double().square().mean()
    assert found["x + t v"].mse == pytest.approx(expected.tolist(), rel=1e-5)
    assert found["x + t v"].a_mse == pytest.approx(float(expected.mean()), rel=1e-5)


def test_errors_do_not_depend_on_the_batch(task):
    model = seeded(small, task, 1)
    whole, parts = (path_errors(model, task.test, size) for size in (20, 7))
    assert torch.allclose(whole, parts, rtol=1e-5)
    square = (model(task.test.batch(torch.arange(20))) - task.test.targets).detach().square()
    assert torch.allclose(whole.float(), square.mean((0, 2, 3)), rtol=1e-5)


def test_a_row_learns_and_is_taken_up_again(task, tmp_path):
    found = train_row(small, task, RECIPE, tmp_path / "a", seed=1)
    untrained = path_errors(seeded(small, task, 1), task.test)
    assert found.f_mse < 0.8 * float(untrained[-1])
    assert found.mse[-1] == found.f_mse
    assert found.a_mse == pytest.approx(math.fsum(found.mse) / 2)
    assert 0 < found.best_epoch <= found.epochs == 4
    assert found.n_parameters == sum(p.numel() for p in small(task).parameters())
    # Again from the folder: nothing is trained.
    assert train_row(small, task, RECIPE, tmp_path / "a", seed=1, resume=True) == found
    with pytest.raises(ValueError, match="another training"):
        train_row(small, task, replace(RECIPE, epochs=5), tmp_path / "a", seed=1, resume=True)
    again = train_row(small, task, RECIPE, tmp_path / "b", seed=1)
    assert (again.mse, again.best_epoch) == (found.mse, found.best_epoch)
    assert train_row(small, task, RECIPE, tmp_path / "c", seed=2).mse != found.mse


def test_an_epoch_takes_each_sample_once(task, tmp_path):
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, batch):
            if torch.is_grad_enabled():
                seen.append(batch.positions[:, 0, 0])
            return batch.positions[:, None] + self.factor * batch.targets * 0.0

    recipe = published_recipe(2, 10, 1e-3)
    assert (recipe.schedule, recipe.ema_decay, recipe.gradient_clip) == ("constant", 0.0, None)
    train_row(lambda _: Watching(), task, recipe, tmp_path, seed=1)
    everything = task.training.positions[:, 0, 0].sort().values
    first, second = torch.cat(seen[:5]), torch.cat(seen[5:])
    assert torch.equal(first.sort().values, everything)
    assert torch.equal(second.sort().values, everything)
    assert not torch.equal(first, second)


def test_a_row_may_bring_its_own_loss(task, tmp_path):
    class Own(PublishedEGNO):
        def path_loss(self, batch):
            return (self(batch) - 2.0 * batch.targets).square().mean()

    found = [
        train_row(lambda task, kind=kind: kind(task, 8, 2), task, RECIPE, tmp_path / name, seed=1)
        for name, kind in (("own", Own), ("usual", PublishedEGNO))
    ]
    assert found[0].f_mse > found[1].f_mse


def test_the_budget_ends_a_training(task, tmp_path):
    long = replace(RECIPE, epochs=10_000)
    found = train_row(small, task, long, tmp_path, seed=1, cpu_minutes=1e-4)
    assert found.epochs < 100


def test_first_weights_leave_the_global_stream_alone(task):
    before = torch.get_rng_state()
    first, same, other = (seeded(small, task, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [next(m.parameters()) for m in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_moved_and_turned_inputs_give_moved_and_turned_outputs(task):
    model = seeded(small, task, 1)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    paths = task.test
    other = Paths(
        paths.positions @ turn.T + 1.0,
        paths.velocities @ turn.T,
        paths.targets,
        paths.times,
        paths.node_features,
        paths.edges,
        paths.edge_features,
    )
    chosen = torch.arange(5)
    found, expected = model(other.batch(chosen)), model(paths.batch(chosen)) @ turn.T + 1.0
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.detach().abs().max()))


def test_the_table(task, tmp_path):
    config = BenchmarkConfig(name="nbody", out=str(tmp_path), seeds=(1, 2), epochs=1)
    rows = {"a b": Row(small, RECIPE), "c": Row(small, RECIPE)}
    table = measure_rows(config, task, rows, caption="protocol", unit="1e-2", scale=100.0)
    assert [row[0] for row in table.rows] == ["x + t v", "x + c v", "a b", "c"]
    cell = table.rows[2][2]
    assert (cell.n, table.rows[2][4].mean) == (2, 1.0)
    assert sorted(p.name for p in (tmp_path / "nbody").iterdir()) == [
        "a_b-1",
        "a_b-2",
        "c-1",
        "c-2",
    ]
    assert table.rows[0][2] == pytest.approx(100 * linear_baselines(task)["x + t v"].f_mse)
    # Finished trainings are taken as they are; rows can be chosen.
    again = config.model_copy(update={"resume": True, "rows": ("c",)})
    table = measure_rows(again, task, rows, caption="protocol", unit="1e-2", scale=100.0)
    assert [row[0] for row in table.rows] == ["c"]
    wrong = config.model_copy(update={"rows": ("d",)})
    with pytest.raises(ValueError, match=r"no rows \['d'\] in nbody"):
        measure_rows(wrong, task, rows, caption="protocol", unit="1")
