"""The N-body benchmark at toy size."""

import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks import nbody
from egno_md.benchmarks.table import Cell
from egno_md.data.nbody import NBodyTrajectories


@pytest.fixture
def splits():
    generator = torch.Generator().manual_seed(1)
    x, v = torch.randn(2, 6, 11, 5, 3, generator=generator)
    charges = torch.where(torch.rand(6, 5, generator=generator) < 0.5, 1.0, -1.0)
    return dict.fromkeys(("training", "validation", "test"), NBodyTrajectories(x, v, charges))


def test_protocol(splits):
    data = splits["test"]
    paths = nbody.nbody_paths(data)
    assert torch.equal(paths.positions, data.positions[:, 0])
    assert torch.equal(paths.targets, data.positions[:, [2, 4, 6, 8, 10]])
    assert paths.times.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert paths.edges.shape == (2, 20)
    assert torch.equal(paths.node_features[..., 0], data.velocities[:, 0].norm(dim=-1))
    i, j = paths.edges[:, 7].tolist()
    charges, squared = paths.edge_features[3, 7].tolist()
    assert charges == data.charges[3, i] * data.charges[3, j]
    assert squared == pytest.approx(
        float((paths.positions[3, i] - paths.positions[3, j]).square().sum())
    )


def test_published_architecture(splits):
    paths = nbody.nbody_paths(splits["test"])
    task = nbody.PathTask("nbody", paths, paths, paths)
    rows = nbody.rows()
    counts = {
        name: sum(p.numel() for p in row.make(task).parameters()) for name, row in rows.items()
    }
    assert counts["EGNO"] == counts["EGNO, published recipe"] == 201_672
    assert counts["EGNN"] == 201_672 - 65_600
    published = rows["EGNO, published recipe"].recipe
    assert (published.learning_rate, published.batch_size, published.schedule) == (
        1e-4,
        100,
        "constant",
    )


def test_measured_on_simulated_data(splits, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(nbody, "simulate_nbody", lambda *a: asked.append(a) or splits)
    config = BenchmarkConfig(
        name="nbody", out=str(tmp_path), epochs=1, seeds=(1,), rows=("linear", "EGNN", "EGNO")
    )
    (table,) = nbody.measure(config)
    assert asked == [(43, tmp_path / "nbody")]
    assert [row[0] for row in table.rows] == ["x + t v", "x + c v", "EGNN", "EGNO"]
    assert isinstance(table.rows[3][2], Cell)
    assert table.rows[3][2].mean > 0
    assert "simulated here" in table.caption
    assert any("recalled, not read" in note for note in table.notes)


def test_missing_data_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no N-body data"):
        nbody.measure(BenchmarkConfig(name="nbody", data=str(tmp_path), out=str(tmp_path)))
