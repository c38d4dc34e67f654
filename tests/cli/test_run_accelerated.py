import json
from pathlib import Path

import numpy as np
import pytest

from egno_md.cli import main
from egno_md.trajectories import run_end
from egno_md.trajectories.store_reader import TrajectoryReader
from tests.trajectories.page import Page


@pytest.fixture
def words(tiny_guard, tiny_egno):
    """Arguments of a short run at constant energy."""

    def of(out, *more):
        return [
            *("run", "--example", "ethanol", "--out", str(out), "--ensemble", "nve"),
            *("--guard", str(tiny_guard), "--propagator", str(tiny_egno)),
            *("--n-replicas", "2", "--n-threads", "1", "--length-ps", "0.024"),
            *("--equilibration-ps", "0", "--no-report", "--export", *more),
            *("--dtype", "float64", "--precision", "float64"),
        ]

    return of


def positions(out):
    return TrajectoryReader(Path(out) / "trajectory.zarr").array("positions")


def record(out):
    return json.loads((Path(out) / "run.json").read_text())


def test_an_inner_potential_makes_two_time_steps(words, tiny_guard, tmp_path, capsys):
    classical = words(tmp_path / "plain", "--mode", "classical", "--frame-interval-fs", "2")
    assert main(classical) == 0
    same = ("--mode", "classical", "--inner-potential", str(tiny_guard), "--outer-step-fs", "2")
    assert main(words(tmp_path / "mts", *same)) == 0
    said = capsys.readouterr().out
    assert "force evaluations: 13 accurate, 49 cheap, in steps of 2 and 0.5 fs" in said
    # With one potential for both the trajectory is that of a single step.
    np.testing.assert_allclose(
        positions(tmp_path / "mts"), positions(tmp_path / "plain"), rtol=0, atol=1e-12
    )
    counts = record(tmp_path / "mts")["multiple_time_step"]
    assert (counts["outer"], counts["inner"], counts["probing"]) == (13, 49, 24)
    assert list(record(tmp_path / "mts")["bundles"]) == ["tiny-escn"]


def test_both_may_be_classical_force_fields(tmp_path, capsys):
    argv = ["run", "--example", "alanine_dipeptide", "--mode", "classical"]
    argv += ["--guard", "openmm:amber19", "--inner-potential", "openmm:amber14"]
    argv += ["--n-replicas", "1", "--length-ps", "0.004", "--equilibration-ps", "0"]
    argv += ["--timestep-fs", "0.5", "--outer-step-fs", "1", "--no-report", "--export"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert "5 accurate, 9 cheap" in capsys.readouterr().out
    facts = record(tmp_path / "out")
    # An N-H bond.
    assert facts["multiple_time_step"]["fastest_period_fs"] == pytest.approx(10.1, abs=0.2)
    assert len(facts["bundles"]) == 2


def test_parareal_gives_the_classical_trajectory(words, tmp_path, capsys):
    classical = words(tmp_path / "plain", "--mode", "classical", "--frame-interval-fs", "2")
    assert main(classical) == 0
    slabs = ("--mode", "parareal", "--n-slabs", "3", "--frames-per-slab", "2")
    assert main(words(tmp_path / "parareal", *slabs, "--tolerance-A", "1e-6")) == 0
    said = capsys.readouterr().out
    assert "parareal: 6 slabs in 2 windows" in said
    difference = positions(tmp_path / "parareal") - positions(tmp_path / "plain")
    assert np.abs(difference).max() < 1e-5
    facts = record(tmp_path / "parareal")
    assert facts["share_integrator"] == 1.0
    assert set(facts["bundles"]) == {"tiny-escn", "tiny-egno"}
    assert facts["parareal"]["slabs"] == 6
    assert len(facts["parareal"]["largest_changes_A"]) == 2
    assert set(facts["parareal"]["projected"]) == {"2", "16", "64", "256"}


def test_counts_go_on_where_a_run_does(words, tiny_guard, tmp_path):
    nested = ("--mode", "classical", "--inner-potential", str(tiny_guard), "--outer-step-fs", "2")
    slabs = ("--mode", "parareal", "--n-slabs", "2", "--frames-per-slab", "2")
    for name, more in (("multiple_time_step", nested), ("parareal", slabs)):
        assert main(words(tmp_path / f"whole-{name}", *more)) == 0
        part = tmp_path / f"part-{name}"
        assert main([*words(part, *more), "--length-ps", "0.008"]) == 0
        assert main(["run", "--resume", "--out", str(part), "--length-ps", "0.024"]) == 0
        resumed, whole = record(part)[name], record(tmp_path / f"whole-{name}")[name]
        for key in whole:
            if isinstance(whole[key], int):
                assert resumed[key] == whole[key], key
        if name == "multiple_time_step":
            # Before and after equilibration the same molecule, so the same period.
            assert resumed == whole
        else:
            assert resumed["largest_changes_A"] == whole["largest_changes_A"]
        # Nothing is left to do.
        assert main(["run", "--resume", "--out", str(part)]) == 0
        assert record(part)[name] == resumed


def test_a_report_of_two_time_steps_has_counts_costs_and_warnings(words, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["run", "--example", "alanine_dipeptide", "--mode", "classical", "--out", str(out)]
    argv += ["--guard", "openmm:amber19", "--inner-potential", "openmm:amber14", "--export"]
    argv += ["--n-replicas", "2", "--length-ps", "0.02", "--equilibration-ps", "0.004"]
    assert main([*argv, "--timestep-fs", "0.5", "--outer-step-fs", "4"]) == 0
    said = capsys.readouterr().err
    assert said.count("egno-md: warning: with an outer step of 4 fs long runs") == 1
    assert "RuntimeWarning" not in said
    warned = record(out)["warnings"]
    assert len(warned) == 1
    page = Page((out / "report.html").read_text()).words
    for text in (
        "What two time steps did",
        "classical run with two time steps",
        "openmm:amber14, to find its fastest vibration",
        "The first resonance is at 0.5",
        "With an outer step of 4 fs long runs",
        "Nothing was trained to make this run cheaper.",
        "velocity Verlet or Langevin, 1 fs",
    ):
        assert text in page, text
    assert "A classical run has no guard" not in page
    costs = record(out)["costs"]
    assert costs["classical"]["potential"] == "openmm:amber19"
    assert (costs["training_cpu_s"], costs["judged_by"]) == (0.0, "cpu")
    resumed = ["run", "--resume", "--out", str(out), "--no-report", "--length-ps", "0.028"]
    assert main(resumed) == 0
    assert "RuntimeWarning" not in capsys.readouterr().err
    assert record(out)["warnings"] == warned


def test_a_report_of_parareal_is_judged_by_the_wall_clock(words, tmp_path):
    slabs = ("--mode", "parareal", "--n-slabs", "3", "--frames-per-slab", "2", "--report")
    assert main(words(tmp_path / "out", *slabs)) == 0
    page = Page((tmp_path / "out" / "report.html").read_text()).words
    for text in (
        "What parareal did",
        "6 slabs of time were made, in 2 windows",
        "largest change of a position (Å), median",
        "1, measured",
        "256, projected",
        "On 1 worker this run",
    ):
        assert text in page, text
    assert "it never pays; integrate classically instead" not in page
    facts = record(tmp_path / "out")
    assert facts["costs"]["judged_by"] == "wall"
    assert facts["parareal"]["work_ratio"] > 0


def test_the_classical_price_is_of_half_a_femtosecond_or_of_the_serial_run(words, tmp_path):
    finer = ("--timestep-fs", "0.25", "--report")
    nested = ("--mode", "classical", "--inner-potential", "ethanol-distance", *finer)
    slabs = ("--mode", "parareal", "--n-slabs", "3", "--frames-per-slab", "2", *finer)
    for name, more, step_fs in (("nested", nested, 0.5), ("slabs", slabs, 0.25)):
        assert main(words(tmp_path / name, *more)) == 0
        assert record(tmp_path / name)["costs"]["classical"]["timestep_fs"] == step_fs


def test_without_a_classical_price_there_is_a_report(words, tmp_path, monkeypatch, capsys):
    def fails(*_, **__):
        raise ValueError("integration failed at 1 fs")

    monkeypatch.setattr(run_end, "measure_classical_cost", fails)
    slabs = ("--mode", "parareal", "--n-slabs", "3", "--frames-per-slab", "2", "--report")
    assert main(words(tmp_path / "out", *slabs)) == 0
    assert "price was not measured: integration failed at 1 fs" in capsys.readouterr().err
    assert record(tmp_path / "out")["costs"] is None
    page = Page((tmp_path / "out" / "report.html").read_text()).words
    assert "The price of classical integration was not measured in this run." in page


def test_workers_of_another_mode_are_refused_on_resume(words, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(words(out, "--mode", "classical")) == 0
    longer = ["run", "--resume", "--out", str(out), "--length-ps", "0.048"]
    assert main([*longer, "--n-workers", "2"]) == 2
    assert "n_workers = 2 would have no effect here" in capsys.readouterr().err
    assert main(longer) == 0


def test_a_frame_between_two_outer_steps_is_refused_by_their_name(words, tmp_path, capsys):
    wrong = ("--mode", "classical", "--inner-potential", "ethanol-escn", "--frame-interval-fs", "3")
    assert main(words(tmp_path / "out", *wrong)) == 2
    said = capsys.readouterr().err
    assert "frame_interval_fs 3.0 is not a multiple of outer_step_fs 2.0" in said
    assert "timestep_fs" not in said


def test_what_does_not_go_together_is_refused(words, tmp_path, capsys):
    argv = words(tmp_path / "out", "--mode", "parareal", "--inner-potential", "ethanol-escn")
    assert main(argv) == 2
    assert "inner_potential goes with mode classical" in capsys.readouterr().err
    wrong = ("--mode", "classical", "--inner-potential", "nothing:else")
    assert main(words(tmp_path / "out", *wrong)) == 2
    assert "'nothing:else' is neither a bundle nor sgdml:FILE" in capsys.readouterr().err
    wrong = ("--mode", "classical", "--inner-potential", "ethanol-escn", "--outer-step-fs", "0.7")
    assert main(words(tmp_path / "out", *wrong)) == 2
    assert "not a multiple of the inner one" in capsys.readouterr().err
