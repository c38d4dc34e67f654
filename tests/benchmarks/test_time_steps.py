"""The table of two time steps: slopes that are known, failures that are said."""

import json

import pytest
import torch

from egno_md.benchmarks import time_steps
from egno_md.benchmarks.time_steps import _energies, _Followed, _followed, _temperatures
from egno_md.cli import main
from egno_md.propagators.classical import VelocityVerlet

from .springs import Springs, start


def followed(slope, kelvins=(300.0, 300.0), failed=None):
    """Two replicas of ten looks with a slope, meV/atom/ps, and its opposite at half size."""
    t = torch.arange(10).double() * time_steps.LOOK_FS * 1e-3
    totals = torch.stack([slope * t, -0.5 * slope * t]) + 7.0
    temperatures = torch.tensor(kelvins).double().expand(2, 10, 2)
    return _Followed(totals, temperatures, failed, 3.0)


def test_the_slope_is_the_mean_over_replicas():
    per_ps, slope, wobble, failed, cost = _energies(followed(4.0), 2.0)
    assert per_ps == 500.0
    assert slope.mean == pytest.approx(1.0)
    assert slope.spread == pytest.approx(3.0)
    assert wobble.mean == pytest.approx(0.0, abs=1e-12)
    assert failed is None
    assert cost == pytest.approx(3.0 / (2 * 0.6))


def test_a_failed_row_says_when_and_nothing_else():
    assert _energies(followed(4.0, failed=0.3), 2.0) == (500.0, None, None, 0.3, None)
    assert _temperatures(followed(4.0, failed=0.3)) == (None, None, None)


def test_temperatures_are_compared():
    hydrogens, others, ratio = _temperatures(followed(0.0, (297.0, 300.0)))
    assert (hydrogens.mean, others.mean) == pytest.approx((297.0, 300.0))
    assert ratio.mean == pytest.approx(0.99)


class Broken(Springs):
    """Springs that give up at the third look."""

    calls = 0

    def evaluate(self, state):
        self.calls += 1
        if self.calls > 1 + 2 * round(time_steps.LOOK_FS):
            raise ValueError("too far")
        return super().evaluate(state)


def test_verlet_keeps_the_energy_of_springs_and_a_failure_ends_the_row(capsys):
    begin = start(3)
    run = _followed(VelocityVerlet(Springs(), 1.0, time_steps.LOOK_FS, 1), begin, 5)
    assert run.totals.shape == (3, 5)
    assert run.failed_ps is None
    assert float((run.totals - run.totals[:, :1]).abs().max()) < 1.0
    run = _followed(VelocityVerlet(Broken(), 1.0, time_steps.LOOK_FS, 1), begin, 5)
    assert run.failed_ps == pytest.approx(0.12)
    assert "too far" in capsys.readouterr().err


def test_the_benchmark_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(time_steps, "VERLET_FS", (1.0,))
    monkeypatch.setattr(time_steps, "OUTER_FS", (2.0,))
    monkeypatch.setattr(time_steps, "BATH_FS", (2.0,))
    monkeypatch.setattr(time_steps, "_EQUILIBRATION_FS", 20.0)
    argv = ["benchmark", "time-steps", "--length-ps", "0.18", "--n-replicas", "2"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    found = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "time-steps").glob("*.json")}
    assert [row[:2] for row in found["time-steps"]["rows"]] == [
        ["Verlet, 1 fs", 1000.0],
        ["two time steps, 2 fs", 500.0],
    ]
    assert "which misses" in found["time-steps"]["caption"]
    names = [row[0] for row in found["time-steps-bath"]["rows"]]
    assert names == ["Langevin, 2 fs", "two time steps, 2 fs"]


def test_one_potential_is_not_enough(tmp_path, capsys):
    argv = ["benchmark", "time-steps", "--potentials", "ethanol-escn", "--out", str(tmp_path)]
    assert main(argv) != 0
    assert "the accurate one and a cheap one, got 1" in capsys.readouterr().err


def test_rows_are_chosen_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(time_steps, "_EQUILIBRATION_FS", 20.0)
    argv = ["benchmark", "time-steps", "--length-ps", "0.18", "--n-replicas", "2"]
    argv += ["--out", str(tmp_path), "--friction-per-ps", "7"]
    assert main([*argv, "--rows", "two-langevin-2"]) == 0
    (file,) = (tmp_path / "time-steps").glob("*.json")
    found = json.loads(file.read_text())
    assert [row[0] for row in found["rows"]] == ["two time steps, 2 fs"]
    assert "in a Langevin bath of 7/ps" in found["caption"]
    assert main([*argv, "--rows", "two-langevin-9"]) == 2
    assert "'two-langevin-9'; allowed are verlet-0.5" in capsys.readouterr().err
