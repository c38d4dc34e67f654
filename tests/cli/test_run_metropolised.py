"""`egno-md run --mode metropolised`: what it leaves, what it says, and that it can be repeated."""

import json
from pathlib import Path

import numpy as np
import pytest

from egno_md.bundle import load_bundle
from egno_md.cli import main
from egno_md.segment import MadeBy
from egno_md.trajectories import run_setup
from egno_md.trajectories.store_reader import TrajectoryReader
from tests.trajectories.page import Page


@pytest.fixture
def words(tiny_guard, tiny_egno):
    """Arguments of a short run with proposals of 8 fs, unless others are given."""

    def of(out, *more, proposal_fs="8"):
        length = [] if proposal_fs is None else ["--proposal-fs", proposal_fs]
        return [
            *("run", "--example", "ethanol", "--mode", "metropolised", "--out", str(out)),
            *("--guard", str(tiny_guard), "--propagator", str(tiny_egno), "--export"),
            *("--n-replicas", "3", "--n-threads", "1", "--length-ps", "0.08"),
            *("--equilibration-ps", "0.032", *length, *more),
        ]

    return of


def arrays(out):
    reader = TrajectoryReader(Path(out) / "trajectory.zarr")
    reader.verify()
    names = ("positions", "velocities", "times_fs", "potential_energies", "made_by")
    return {name: reader.array(name).tobytes() for name in names}


def test_a_run_reports_acceptance_costs_and_length(words, tmp_path, capsys):
    assert main(words(tmp_path / "out")) == 0
    said = capsys.readouterr().out
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    sampling = facts["sampling"]
    assert sampling["proposals"] == 3 * 10
    assert sampling["target_evaluations"] == 3 * 11
    assert sampling["proposal_fs"] == 8.0
    assert sampling["tuning"] is None
    assert 0 < sampling["acceptance"] <= 1
    assert f"accepted {sampling['acceptance']:.1%} of 30 proposals of 8 fs" in said
    assert "1 in equilibrium" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What accept/reject did" in page
    assert "Proposals were accepted" in page
    assert "What the guard did" not in page
    costs = facts["costs"]
    assert costs["classical"]["timestep_fs"] == 0.5
    assert costs["run_cpu_s_per_ps"] == pytest.approx(facts["cpu_s"] / 0.24, rel=0.1)
    step = costs["classical"]["cpu_s_per_ps"] * 0.5
    assert [b["timestep_fs"] for b in costs["baselines"]] == [0.5, 1.0, 4.0]
    for baseline in costs["baselines"]:
        dt = baseline["timestep_fs"]
        assert baseline["evaluations_per_ps"] * dt == 1000.0
        assert baseline["cpu_s_per_ps"] == pytest.approx(step / dt)
        assert not baseline["measured"]
    assert costs["training_cpu_s"] is None  # the card of the network does not say it
    assert costs["training_cpu_s_by_model"] == {"tiny-egno": None}
    words_of_page = Page(page).words
    assert "classical rivals, computed and not run" in words_of_page
    assert "A picosecond of proposals needed" in words_of_page
    assert "not measured" not in words_of_page
    reader = TrajectoryReader(tmp_path / "out" / "trajectory.zarr")
    np.testing.assert_allclose(reader.times_fs, 8.0 * np.arange(11))
    # Where the maker did not change from the start's, nothing was ever accepted.
    x, made = reader.array("positions"), reader.array("made_by")
    stayed = (x[:, 1:] == x[:, :1]).all((2, 3))
    assert ((made[:, 1:] == MadeBy.GIVEN) == stayed.cumprod(1).astype(bool)).all()
    assert ((made[:, 1:] == MadeBy.NETWORK) == ~stayed.cumprod(1).astype(bool)).all()
    moved = (x[:, 1:] != x[:, :-1]).any((2, 3)).sum()
    assert moved == sampling["accepted"]


def test_stopped_and_resumed_is_the_same_run(words, tmp_path):
    out = tmp_path / "out"
    assert main([*words(out, "--no-report"), "--length-ps", "0.04"]) == 0
    more = ["run", "--resume", "--out", str(out), "--length-ps", "0.08"]
    assert main(more) == 0
    assert main(words(tmp_path / "whole", "--no-report")) == 0
    assert arrays(out) == arrays(tmp_path / "whole")
    both = [json.loads((p / "run.json").read_text())["sampling"] for p in (out, tmp_path / "whole")]
    assert both[0] == both[1]


def test_a_tuned_run_is_the_run_with_the_length_it_found(words, tmp_path, capsys):
    argv = words(tmp_path / "tuned", "--tuning-cpu-s", "0.2", proposal_fs=None)
    assert main(argv) == 0
    said = capsys.readouterr().err
    facts = json.loads((tmp_path / "tuned" / "run.json").read_text())["sampling"]
    length = facts["proposal_fs"]
    assert f"proposals of {length:g} fs, tuned in" in said
    tried = {trial["proposal_fs"] for trial in facts["tuning"]["trials"]}
    assert length in tried
    assert min(tried) == 8.0
    assert "The length was tuned in" in (tmp_path / "tuned" / "report.html").read_text()
    given = words(tmp_path / "given", "--no-report", proposal_fs=str(length))
    assert main(given) == 0
    assert arrays(tmp_path / "tuned") == arrays(tmp_path / "given")
    resumed = ["run", "--resume", "--out", str(tmp_path / "tuned"), "--length-ps", "0.08"]
    assert main([*resumed, "--no-report"]) == 0


def test_a_cheap_potential_proposes(words, tmp_path, tiny_guard, capsys):
    out = tmp_path / "out"
    assert main(words(out, "--proposal", str(tiny_guard), "--timestep-fs", "1")) == 0
    facts = json.loads((out / "run.json").read_text())
    # Target and proposal are the same potential, and its forces are weak.
    assert facts["sampling"]["acceptance"] == 1.0
    assert facts["share_integrator"] == 1.0
    assert list(facts["bundles"]) == ["tiny-escn"]
    # The potential proposes itself: nothing was trained for that.
    assert facts["costs"]["training_cpu_s_by_model"] == {}
    assert facts["costs"]["training_cpu_s"] == 0.0
    assert facts["warnings"] == []
    assert "Proposals were accepted" in (out / "report.html").read_text()


def test_the_training_of_a_quick_copy_is_counted_and_a_copy_is_no_target(words, tmp_path, capsys):
    out = tmp_path / "out"
    copy = ("--proposal", "ethanol-distance", "--guard", "ethanol-distance")
    assert main(words(out, "--proposal", "ethanol-distance", "--length-ps", "0.012")) == 0
    said = capsys.readouterr().err
    assert "length_ps = 0.012 is not a multiple of the 8 fs from frame to frame" in said
    assert "the run covers 0.016 ps" in said
    assert "quick copy" not in said
    facts = json.loads((out / "run.json").read_text())
    card = load_bundle("ethanol-distance").card.training
    spent = card["cpu_seconds"] + card["sampling_cpu_seconds"]
    assert facts["costs"]["training_cpu_s_by_model"] == {"ethanol-distance": spent}
    assert f"{spent:.0f} CPU-seconds (ethanol-distance)" in (out / "report.html").read_text()
    assert main(words(tmp_path / "copy", *copy)) == 0
    said = capsys.readouterr().err
    assert said.count("'ethanol-distance', is a quick copy of a potential") == 1
    warned = json.loads((tmp_path / "copy" / "run.json").read_text())["warnings"]
    assert [("do not trust it alone" in line) for line in warned] == [True]
    page = Page((tmp_path / "copy" / "report.html").read_text()).words
    assert "The target of this run, 'ethanol-distance', is a quick copy" in page


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ensemble", "nve"], "samples at a temperature"),
        (["--guard", "none"], "needs a potential and guard is none"),
        (["--proposal-fs", "9"], "proposal_fs = 9 is not a multiple of the 2 fs"),
        (
            ["--proposal", "ethanol-distance", "--proposal-fs", "32.3"],
            "proposal_fs = 32.3 is not a multiple of timestep_fs = 0.5; take, for example, 32.5",
        ),
        (["--frame-interval-fs", "8"], "a metropolised run has one frame per proposal"),
        (["--tuning-cpu-s", "1"], "goes with mode 'metropolised' without proposal_fs"),
        (["--mode", "guarded"], "proposal and proposal_fs go with mode 'metropolised'"),
        (["--proposal", "no-such"], "no bundle 'no-such'"),
    ],
)
def test_what_cannot_be_is_refused(words, tmp_path, capsys, monkeypatch, more, message):
    def never(*_):
        raise AssertionError("time was spent on the equilibration")

    monkeypatch.setattr(run_setup, "equilibrate", never)
    assert main(words(tmp_path / "out", *more)) == 2
    said = capsys.readouterr().err
    assert message in said.splitlines()[-1]
    assert not (tmp_path / "out" / "trajectory.zarr").exists()
