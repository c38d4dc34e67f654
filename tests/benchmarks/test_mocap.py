from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks import mocap
from egno_md.benchmarks.mocap import OFFSETS, clip_groups, measure, mocap_paths, mocap_task
from egno_md.benchmarks.paper_training import path_errors
from egno_md.data.mocap import find_mocap_file, read_mocap


@pytest.fixture
def file(tmp_path):
    """Four clips of a walking chain of four joints: two to train, one to validate, one to test."""
    rng = np.random.default_rng(3)
    fields = {"edges": np.array([[1, 0], [2, 1], [3, 2]])}
    rest = np.array([[0.0, 17, 0], [0, 12, 0], [0, 7, 0], [0, 2, 1]])
    for clip in range(4):
        t = np.arange(60)[:, None, None] + rng.uniform(0, 9)
        swing = np.sin(0.2 * t) * np.array([0.0, 0.1, 1.0]) * np.arange(4)[:, None]
        fields[f"x{clip}"] = rest + swing + t * np.array([0.0, 0.0, 0.6])
    for name in ("train_0", "train_1", "val_2", "test_3"):
        fields[name] = rng.permutation(25)[:8]
    path = tmp_path / "clips.npz"
    np.savez(path, **fields)
    return path


def config(file, tmp_path, **options):
    options = {"rows": ("linear",), "seeds": (1,), "epochs": 1} | options
    return BenchmarkConfig(name="mocap", data=str(file), out=str(tmp_path / "out"), **options)


def test_features_are_of_the_sample_alone(file):
    motion = read_mocap(file)
    paths = mocap_paths(motion, "test", OFFSETS["mocap-last"])
    batch, one = paths.batch(torch.arange(8)), paths.batch(torch.tensor([5]))
    torch.testing.assert_close(batch.node_features[5:6], one.node_features, atol=0, rtol=0)
    highest = mocap_paths(motion, "training", (1,)).positions[..., 1].max()
    torch.testing.assert_close(one.node_features[..., 1], one.positions[..., 1] / highest)
    torch.testing.assert_close(one.node_features[..., 0], one.velocities.norm(dim=-1))
    row, col = one.edge_index
    squared = (one.positions[0, row] - one.positions[0, col]).square().sum(-1)
    torch.testing.assert_close(one.edge_features[:, 1], squared)
    assert set(one.edge_features[:, 0].tolist()) == {1.0, 2.0}


def test_times_are_those_of_the_targets(file):
    motion = read_mocap(file)
    for name, offsets in OFFSETS.items():
        task = mocap_task(motion, name)
        assert task.test.times.tolist() == list(offsets)
        start = int(motion.starts["test"][3][2])
        torch.testing.assert_close(
            task.test.targets[2], motion.clips[3][start + torch.tensor(offsets)]
        )


def test_training_starts_are_grouped_by_clip(file):
    motion = read_mocap(file)
    groups = clip_groups(motion)
    assert groups.tolist() == [0] * 8 + [1] * 8
    first = mocap_task(motion, "mocap-uniform").training.positions[:8]
    assert all(any(torch.equal(x, frame) for frame in motion.clips[0]) for x in first)


def test_the_table_has_controls_and_trained_rows(file, tmp_path, monkeypatch):
    monkeypatch.setattr(mocap, "HIDDEN", 4)
    monkeypatch.setattr(mocap, "LAYERS", 1)
    names = ("linear", "EGNO as published", "EGNO, ours", "EGNO after kernel ridge")
    chosen = config(file, tmp_path, rows=names, molecules=("mocap-uniform",))
    (table,) = measure(chosen)
    labels = [row[0] for row in table.rows]
    assert labels == ["static", "x + t v", "x + c v", "kernel ridge", *names[1:]]
    values = {row[0]: row[2] for row in table.rows}
    task = mocap_task(read_mocap(file), "mocap-uniform")
    moved = task.test.targets[:, -1] - task.test.positions
    assert values["static"] == pytest.approx(float(moved.square().mean()), rel=1e-5)
    assert values["kernel ridge"] < 0.1 * values["x + c v"]
    assert 0 < values["EGNO after kernel ridge"].mean < values["x + c v"]
    assert "t+6, t+12, t+18, t+24, t+30" in table.caption
    assert "8/8" in table.caption


def test_both_tables_on_request_and_errors_that_help(file, tmp_path):
    assert [table.name for table in measure(config(file, tmp_path))] == ["mocap-uniform"]
    tables = measure(config(file, tmp_path, molecules=tuple(OFFSETS)))
    assert [table.name for table in tables] == list(OFFSETS)
    with pytest.raises(ValueError, match=r"no tables \['walk'\]"):
        measure(config(file, tmp_path, molecules=("walk",)))
    with pytest.raises(ValueError, match="no rows"):
        measure(config(file, tmp_path, rows=("EGHN",)))
    with pytest.raises(FileNotFoundError, match="give --data"):
        measure(BenchmarkConfig(name="mocap", out=str(tmp_path)))


def test_the_published_data_is_the_published_task():
    folder = os.environ.get("EGNO_MD_DATA")
    if not folder:
        pytest.skip("set EGNO_MD_DATA to the data folder to run this test")
    task = mocap_task(read_mocap(find_mocap_file(folder)), "mocap-last")
    assert [len(s) for s in (task.training, task.validation, task.test)] == [200, 240, 240]
    assert task.training.edges.shape == (2, 130)
    errors = path_errors(mocap.still, task.test)
    assert 60 < errors[0] < errors[-1] < 110  # a runner covers about 16 units in 30 frames
