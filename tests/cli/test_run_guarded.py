"""Guarded runs: calibrated limits, proposals held back, horizons; all go on where they stopped."""

import json
from pathlib import Path

import pytest

from egno_md.cli import main
from egno_md.trajectories.store_reader import TrajectoryReader

ARRAYS = ("positions", "velocities", "times_fs", "potential_energies", "made_by")


def words(out, *more):
    """Arguments of a short guarded run with everything that a guard can do."""
    return [
        *("--example", "ethanol", "--mode", "guarded", "--out", str(out)),
        *("--n-replicas", "2", "--n-threads", "1", "--length-ps", "0.216"),
        *("--equilibration-ps", "0.036", "--compile", "never", "--export", *more),
    ]


FULL = (
    *("--energy-every", "2", "--recover-after", "2"),
    *("--guard-calibration-windows", "5", "--guard-alarm-rate", "0.5"),
)


def arrays(out):
    reader = TrajectoryReader(Path(out) / "trajectory.zarr")
    return {name: reader.array(name).tobytes() for name in ARRAYS}, reader.events


@pytest.mark.slow
def test_limits_are_calibrated_kept_and_reported(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", *words(out, *FULL)]) == 0
    captured = capsys.readouterr()
    assert "calibrating the judges with 5 windows of the guard's own dynamics" in captured.err
    assert "limits from 5 windows of 72 fs of the trusted dynamics" in captured.err
    record = json.loads((out / "run.json").read_text())
    guard = record["guard"]
    limits = guard["limits"]
    assert limits == TrajectoryReader(out / "trajectory.zarr").header.notes["guard_limits"]
    assert 0.0 < limits["energy_eV"] <= 0.1
    assert limits["cpu_s"] > 0.0
    assert limits["bond_A"] > 0.0
    assert (limits["n_windows"], limits["alarm_rate"], limits["window_fs"]) == (5, 0.5, 72.0)
    assert guard["energy_limit_eV"] == limits["energy_eV"]
    assert 0.0 <= guard["largest_energy_error_eV"] <= limits["energy_eV"]
    assert guard["proposals"] >= 2 * 3
    assert record["fallbacks"]
    assert guard["shortest_proposal_frames"] < 24
    said = "largest change of the total energy over a proposal that was kept: "
    assert f", {guard['proposals']} proposals judged)" in captured.out
    assert said in captured.out
    page = (out / "report.html").read_text()
    spent = f"calibration of the judges ({limits['cpu_s']:.0f} CPU-seconds)"
    for text in (
        spent,
        said[1:],
        "A proposal is 2 segments in a row of the network",
        "were as short as",
    ):
        assert text in page


@pytest.mark.slow
def test_a_resumed_run_has_the_bits_of_one_in_one_go(tmp_path, capsys):
    assert main(["run", *words(tmp_path / "whole", *FULL, "--no-report")]) == 0
    part = words(tmp_path / "part", *FULL, "--no-report")
    assert main(["run", *part, "--length-ps", "0.144"]) == 0
    capsys.readouterr()
    assert main(["run", "--out", str(tmp_path / "part"), "--resume", "--length-ps", "0.216"]) == 0
    assert "windows of" not in capsys.readouterr().err  # not calibrated again
    assert arrays(tmp_path / "part") == arrays(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "words_of_error"),
    [
        (("--guard-calibration-windows", "20"), "20 windows cannot guarantee"),
        (
            ("--guard-calibration-windows", "300", "--mode", "surrogate"),
            "guard_calibration_windows goes with mode 'guarded', not 'surrogate'",
        ),
        (("--recover-after", "0"), "recover_after"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, capsys, more, words_of_error):
    assert main(["run", *words(tmp_path / "out", *more)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("egno-md: error: ")
    assert said.count("\n") == 1
    assert words_of_error in said
