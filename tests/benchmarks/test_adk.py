from __future__ import annotations

import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks import adk
from egno_md.benchmarks.adk import OFFSETS, adk_paths, adk_task, measure, moved_paths
from egno_md.data.adk import BackboneTrajectory


@pytest.fixture
def trajectory():
    """A made-up chain of eight atoms that drifts and wobbles."""
    own = torch.Generator().manual_seed(5)
    steps = 0.1 * torch.randn(40, 8, 3, generator=own)
    drift = torch.randn(8, 3, generator=own)
    chain = torch.arange(8.0)[:, None] * torch.tensor([3.0, 1.0, 0.0])
    x = chain + 0.05 * torch.arange(40.0)[:, None, None] * drift + steps
    charges = torch.tensor([-0.3, 0.2, 0.5, -0.5] * 2)
    return BackboneTrajectory(x, charges, ("N", "CA", "C", "O") * 2)


@pytest.fixture
def config(trajectory, tmp_path, monkeypatch):
    monkeypatch.setattr(adk, "find_adk_files", lambda data, name: (tmp_path, tmp_path))
    monkeypatch.setattr(adk, "read_backbone", lambda topology, frames: trajectory)
    return BenchmarkConfig(
        name="adk", data=str(tmp_path), out=str(tmp_path / "out"), seeds=(1, 2), epochs=1
    )


def test_samples_are_starts_with_their_own_contacts(trajectory):
    paths = adk_paths(trajectory, [4, 9])
    x = trajectory.positions
    torch.testing.assert_close(paths.positions, x[[4, 9]])
    torch.testing.assert_close(paths.velocities, x[[5, 10]] - x[[4, 9]])
    torch.testing.assert_close(paths.targets[1], x[[9 + k for k in OFFSETS]])
    batch = paths.batch(torch.tensor([1]))
    row, col = batch.edge_index
    distance = (x[9, row] - x[9, col]).norm(dim=-1)
    assert distance.max() < 8.0
    torch.testing.assert_close(batch.edge_features, torch.stack((distance, distance**2), -1))
    torch.testing.assert_close(batch.node_features[0, :, 1], trajectory.charges / 0.5)
    assert batch.edges is None


def test_splits_follow_each_other_in_time(trajectory):
    task = adk_task(trajectory, "adk")
    # 40 frames - 1 without velocity - 15 without target: 24 starts.
    assert [len(s) for s in (task.training, task.validation, task.test)] == [14, 5, 5]
    torch.testing.assert_close(task.validation.positions[0], trajectory.positions[14])
    torch.testing.assert_close(task.test.targets[-1, -1], trajectory.positions[23 + 15])


def test_moved_samples_are_the_same_samples_elsewhere(trajectory):
    paths = adk_paths(trajectory, range(5))
    moved, turns, shifts = moved_paths(paths, seed=3)
    eye = torch.eye(3).expand(5, 3, 3)
    torch.testing.assert_close(turns @ turns.mT, eye, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(5))
    back = torch.einsum("nji,npaj->npai", turns, moved.targets - shifts[:, None, None])
    torch.testing.assert_close(back, paths.targets, atol=2e-5, rtol=0)
    assert (moved.positions - paths.positions).abs().amax((1, 2)).min() > 1.0
    again, _, _ = moved_paths(paths, seed=3)
    assert torch.equal(again.positions, moved.positions)


def test_the_tables_say_what_they_are(config):
    table, moved = measure(config)
    labels = ["static", "x + t v", "x + c v", *adk.rows()]
    assert [row[0] for row in table.rows] == labels
    assert "not the paper's equilibrium trajectory" in table.caption
    values = {row[0]: row[2] for row in table.rows}
    assert values["EGNO"].n == 2
    for label, plain, hard, deviation in moved.rows:
        assert plain.mean == pytest.approx(values[label].mean, rel=1e-5)
        assert hard.mean == pytest.approx(plain.mean, rel=1e-3)
        assert 0 < deviation.mean < 1e-3


def test_data_and_rows_must_be_there(config):
    with pytest.raises(FileNotFoundError, match="give --data"):
        measure(BenchmarkConfig(name="adk", out=config.out))
    with pytest.raises(ValueError, match="no rows"):
        measure(config.model_copy(update={"rows": ("EGHN",)}))
