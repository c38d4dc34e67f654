"""The speed tables, on toy networks and systems."""

import pytest
import torch

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks import speed
from egno_md.benchmarks.speed_systems import one_molecule, two_molecules, water_box
from egno_md.models.frozen_graph import Compiling
from egno_md.testing.cell_checks import supercell


def test_the_systems():
    pair = two_molecules()
    assert pair.molecule.n_atoms == 23
    assert float(torch.pdist(pair.positions[0]).min()) > 0.9
    box = water_box()
    assert box.molecule.n_atoms == 192
    assert box.molecule.numbers.tolist() == [8, 1, 1] * 64
    # Atoms of different molecules keep apart, across the walls too.
    near = supercell(box, 2).positions[0].view(-1, 3, 3)
    apart = torch.cdist(near[:64].flatten(0, 1), near[64:].flatten(0, 1))
    assert float(apart.min()) > 1.0
    assert one_molecule().molecule.n_atoms == 9
    assert water_box(8).molecule.n_atoms == 8 * 192
    assert torch.equal(water_box(seed=3).positions, water_box(seed=3).positions)


@pytest.fixture
def toy(monkeypatch):
    small = {"max_degree": 1, "max_order": 1, "channels": 4, "hidden_channels": 4, "n_layers": 1}
    monkeypatch.setattr(speed, "PRESETS", {"small: L2 M1 C32, 3 layers": small})
    published = speed.PUBLISHED | {"max_degree": 2, "channels": 8, "hidden_channels": 8}
    monkeypatch.setattr(speed, "PUBLISHED", published | {"n_layers": 2, "edge_channels": 8})
    monkeypatch.setattr(speed, "ROUNDS", 2)
    monkeypatch.setattr(speed, "COMPILING", Compiling(strict=True, backend="eager"))
    monkeypatch.setattr(speed, "BOXES", (1, 2))
    monkeypatch.setattr(speed, "_systems", lambda: {"pair": two_molecules()})


def test_the_tables(toy):
    dynamics, compiled, published, scaling = speed.measure(BenchmarkConfig(name="speed"))
    ((_, weights, _, atoms, edges, middle, low, high),) = dynamics.rows
    assert atoms == 23
    assert edges > 300
    assert weights > 100
    assert 0 < low.mean <= middle.mean <= high.mean
    assert [row[2] for row in compiled.rows] == [9, 23]
    for row in compiled.rows:
        assert row[5].mean > 0
        assert float(row[-1]) < 1e-5
    (row,) = published.rows
    assert float(row[-1]) < 1e-5
    assert row[5].mean > 0
    assert [row[0] for row in scaling.rows] == [192, 384]
    assert scaling.rows[1][1] > 1.9 * scaling.rows[0][1]
    assert "to the power" in scaling.notes[0]


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        speed.measure(BenchmarkConfig(name="speed", rows=("fast",)))
    with pytest.raises(ValueError, match="processor time"):
        speed.measure(BenchmarkConfig(name="speed", device="cuda"))
