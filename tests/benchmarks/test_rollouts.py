"""The benchmark of long runs, from the command line, as short as can be."""

import json
import os

import pytest

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.rollout_reference import RolloutPlan
from egno_md.cli import main


def tables(folder):
    return {p.stem: json.loads(p.read_text()) for p in (folder / "rollouts").glob("*.json")}


def row_of(table, index=0):
    return dict(zip(table["columns"], table["rows"][index], strict=True))


def test_all_tables_and_a_second_run_that_takes_what_is_there(tmp_path, capsys):
    data = os.environ.get("EGNO_MD_DATA")
    if not data:
        pytest.skip("set EGNO_MD_DATA to the data folder to run this test")
    argv = ["benchmark", "rollouts", "--data", data, "--bundles", "ethanol-egno"]
    argv += ["--n-replicas", "2", "--length-ps", "0.06", "--out", str(tmp_path)]
    assert main(argv) == 0
    assert "| ethanol-egno | sgdml:sgdml_model_ethanol.npz | 0 of 2 |" in capsys.readouterr().out
    found = tables(tmp_path)
    assert len(found) == 6
    run = row_of(found["rollouts"])
    assert 0.3 < run["VDOS overlap"] <= 1.0
    assert 0.3 < run["reference against reference"] <= 1.0
    assert [r[1] for r in found["rollout-temperatures"]["rows"]] == ["H", "C", "O"]
    whats = [r[1] for r in found["rollout-divergences"]["rows"]]
    assert "bond C-C" in whats
    assert "torsion C-C-O-H" in whats
    segments = row_of(found["rollout-segments"], 1)
    assert segments["T, K"] == 500.0
    assert 0.0 < segments["x at 8 fs, %"] < 3.0
    assert float(row_of(found["rollout-conservation"])["reversal, Å"]) < 1e-10
    heating = row_of(found["rollout-nve"])
    assert heating["replicas failed"] == "0 of 2"
    assert (
        heating["x error / displacement at 8 fs, %"]
        == row_of(found["rollout-segments"])["x at 8 fs, %"]
    )
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert len(stamps) == 5  # chained, nve, reference, windows at two temperatures
    assert main([*argv, "--resume"]) == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == stamps
    assert tables(tmp_path) == found


def test_the_plan_of_the_full_run():
    plan = RolloutPlan.of(BenchmarkConfig(name="rollouts"))
    assert (plan.n_replicas, plan.length_ps, plan.temperature_K) == (16, 300.0, 300.0)
    assert (plan.n_reference, plan.reference_ps, plan.nve_ps, plan.n_windows) == (16, 300, 10, 1000)
    assert plan.n_window(4.0) == 500
    short = RolloutPlan.of(BenchmarkConfig(name="rollouts", reference_ps=25.0))
    assert (short.n_reference, short.reference_ps) == (64, 25.0)


def test_unknown_rows_are_refused(tmp_path, capsys):
    argv = ["benchmark", "rollouts", "--rows", "nvt", "--out", str(tmp_path)]
    assert main(argv) != 0
    assert "allowed are chained, nve, segments, conservation" in capsys.readouterr().err
