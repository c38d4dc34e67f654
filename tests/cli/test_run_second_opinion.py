"""Guarded runs in which other networks have a say."""

import json

import pytest

from egno_md.bundle import load_bundle, save_bundle
from egno_md.cli import main
from egno_md.config import RunConfig, read_job
from egno_md.trajectories.store_reader import TrajectoryReader

OTHER = ("--other-networks", "transferable-egno")


def words(out, *more):
    """Arguments of a run of two proposals of two replicas."""
    return [
        *("--example", "ethanol", "--mode", "guarded", "--out", str(out)),
        *("--n-replicas", "2", "--n-threads", "1", "--length-ps", "0.072"),
        *("--equilibration-ps", "0.009", "--compile", "never", "--export", *more),
    ]


def test_what_networks_disagree_about_is_made_again(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", *words(out, *OTHER, "--disagreement-limit-A", "0.003")]) == 0
    said = capsys.readouterr().out
    assert "from where 1 other network(s) put it; allowed 0.003 Å" in said
    record = json.loads((out / "run.json").read_text())
    assert set(record["bundles"]) == {"ethanol-egno", "ethanol-escn", "transferable-egno"}
    assert {"ethanol-egno", "transferable-egno"} == set(record["costs"]["training_cpu_s_by_model"])
    events = TrajectoryReader(out / "trajectory.zarr").events
    assert events
    assert {event.judge for event in events} == {"ensemble"}
    page = (out / "report.html").read_text()
    assert "atoms within 0.003 Å of where other networks put them" in page
    assert "second opinion: transferable-egno" in page


def test_networks_that_agree_let_it_pass_and_it_goes_on_alike(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert main(["run", *words(whole, *OTHER, "--no-report")]) == 0
    assert main(["run", *words(part, *OTHER, "--no-report"), "--length-ps", "0.036"]) == 0
    assert main(["run", "--out", str(part), "--resume", "--length-ps", "0.072"]) == 0
    one, two = (TrajectoryReader(folder / "trajectory.zarr") for folder in (whole, part))
    assert one.events == two.events == ()
    for name in ("positions", "velocities", "potential_energies"):
        assert one.array(name).tobytes() == two.array(name).tobytes(), name


def test_its_limit_is_calibrated_with_the_others(tmp_path, capsys):
    few = ("--guard-calibration-windows", "2", "--guard-alarm-rate", "0.8", "--no-report")
    assert main(["run", *words(tmp_path / "out", *OTHER, *few), "--timestep-fs", "1"]) == 0
    limits = TrajectoryReader(tmp_path / "out" / "trajectory.zarr").header.notes["guard_limits"]
    assert 0.0 < limits["disagreement_A"] == limits["disagreement_tolerance_A"] < 0.1
    assert "disagreement with other networks 0.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (("--other-networks", "ethanol-egno"), "what agrees with itself is no second opinion"),
        (
            ("--other-networks", "transferable-egno", "transferable-egno"),
            "'transferable-egno' twice",
        ),
        (
            ("--other-networks", "alanine-dipeptide-egno"),
            "makes a frame every 4.0 fs and 'ethanol-egno' every 3.0 fs",
        ),
        (("--other-networks", "ethanol-escn"), "kind"),
        ((*OTHER, "--mode", "surrogate"), "other_networks go with mode 'guarded'"),
        (("--disagreement-limit-A", "0.1"), "goes with other_networks"),
    ],
)
def test_what_is_no_second_opinion_is_refused(tmp_path, capsys, more, error):
    assert main(["run", *words(tmp_path / "out", *more)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("egno-md: error: ")
    assert error in said


def test_two_models_of_one_name_are_refused(tmp_path, capsys):
    bundle = load_bundle("transferable-egno")
    card = bundle.card.model_copy(update={"name": "ethanol-egno"})
    save_bundle(tmp_path / "ethanol-egno.bundle", card, bundle.weights)
    more = ("--other-networks", str(tmp_path / "ethanol-egno.bundle"))
    assert main(["run", *words(tmp_path / "out", *more)]) == 2
    assert "two models of this run are named 'ethanol-egno'" in capsys.readouterr().err


def test_a_job_file_may_name_one_without_brackets(tmp_path):
    (tmp_path / "job.toml").write_text(
        'example = "ethanol"\nother_networks = "transferable-egno"\n'
    )
    config = read_job(RunConfig, [str(tmp_path / "job.toml")])
    assert config.other_networks == ("transferable-egno",)
