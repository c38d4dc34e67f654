"""The paper's claims: the measures find what they should, and the tables are made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import egno_md.benchmarks.claims as claims
from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.changed_times import dense_paths, embedding_at, published_at
from egno_md.benchmarks.nbody import nbody_paths
from egno_md.benchmarks.nbody_variants import AdaptivePaths
from egno_md.benchmarks.paper_training import PublishedEGNO, seeded
from egno_md.benchmarks.paths import PathBatch, PathTask
from egno_md.benchmarks.symmetry_errors import symmetry_errors
from egno_md.data.nbody import NBodySplits, simulate_nbody
from egno_md.models.egno import time_embedding

SIZES = {"training": 6, "validation": 3, "test": 4}


@pytest.fixture(scope="module", name="splits")
def made() -> NBodySplits:
    """A few trajectories of three charges."""
    return simulate_nbody(1, sizes=SIZES, n_particles=3)


@pytest.fixture(scope="module", name="task")
def asked(splits: NBodySplits) -> PathTask:
    """The task on them."""
    return PathTask("nbody", *(nbody_paths(splits[name]) for name in SIZES))


def small(task: PathTask) -> PublishedEGNO:
    """The published network at a small size."""
    return PublishedEGNO(task, 8, 2)


@pytest.mark.parametrize("make", [small, AdaptivePaths])
def test_networks_have_the_symmetries(task: PathTask, make: type[nn.Module]) -> None:
    model = seeded(make, task, 1)
    found = symmetry_errors(model, task.test, torch.float64)
    assert max(found[k] for k in ("rotation", "reflection", "shift", "permutation")) < 1e-9
    assert (found["centre"] < 1e-12) == isinstance(model, AdaptivePaths)


class Crooked(nn.Module):
    """Adds a push along z to node 0."""

    def forward(self, batch: PathBatch) -> Tensor:
        """Positions."""
        push = torch.zeros_like(batch.positions)
        push[:, 0, 2] = 1.0 + 0.1 * batch.positions[:, 0, 2]
        return (batch.positions + push)[:, None].expand(-1, len(batch.times), -1, -1)


def test_a_network_without_symmetries_is_found_out(task: PathTask) -> None:
    found = symmetry_errors(Crooked(), task.test, torch.float64)
    assert min(found.values()) > 0.01


def test_real_indices_extend_the_published_embedding() -> None:
    whole = embedding_at(torch.arange(5.0), 32)
    assert torch.allclose(whole, time_embedding(5, 32), atol=1e-6)


def test_the_published_network_at_its_own_times_is_itself(task: PathTask) -> None:
    model = seeded(small, task, 2)
    batch = task.test.batch(torch.arange(4))
    times = task.test.times
    for real in (True, False):
        predict = published_at(model, times, float(times[0]), real)
        assert torch.allclose(predict(batch), model(batch), atol=1e-5)


def test_our_network_gives_the_same_at_common_times(task: PathTask, splits: NBodySplits) -> None:
    model = seeded(AdaptivePaths, task, 1)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(4))
    chosen = torch.arange(4)
    dense = dense_paths(splits["test"])
    many = published_at(model, dense.times, 0.2, None)(dense.batch(chosen))
    few = model(task.test.batch(chosen))
    assert torch.allclose(many[:, 1::2], few, atol=1e-5)
    assert torch.equal(dense.targets[:, 1::2], task.test.targets)
    begun = dense_paths(splits["test"], with_start=True)
    start = model(begun.batch(chosen))[:, 0]
    assert torch.allclose(start, task.test.positions, atol=1e-5)


def test_every_table_is_made(
    tmp_path: Path, splits: NBodySplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "simulate_nbody", lambda seed, folder: splits)
    monkeypatch.setattr(claims, "HIDDEN", 8)
    monkeypatch.setattr(claims, "LAYERS", 1)
    monkeypatch.setattr(claims, "FEWER", 3)
    config = BenchmarkConfig(name="claims", seeds=(1, 2), epochs=1, out=str(tmp_path))
    tables = claims.measure(config)
    assert [len(table.rows) for table in tables] == [4, 3, 4, 3]
    # Fewer samples come as much more often, with a number of passes that is asked for, too.
    full = SIZES["training"]
    fewer, all_of_them = (
        json.loads(next(tmp_path.rglob(f"EGNO_2_modes-{count}-1/result.json")).read_text())[
            "result"
        ]
        for count in (3, full)
    )
    assert fewer["epochs"] == round(full / 3) > all_of_them["epochs"] == 1
    with pytest.raises(ValueError, match="already holds trainings"):
        claims.measure(config)
    again = claims.measure(config.model_copy(update={"resume": True, "rows": ("modes",)}))
    assert again[0].rows == tables[3].rows


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    config = BenchmarkConfig(name="claims", rows=("speed",), out=str(tmp_path))
    with pytest.raises(ValueError, match="there are"):
        claims.measure(config)
