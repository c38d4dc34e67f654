"""`egno-md run --mode metropolised`: what it leaves, what it says, and that it can be repeated."""

import json
from pathlib import Path

import numpy as np
import pytest

from egno_md.cli import main
from egno_md.segment import MadeBy
from egno_md.trajectories.store_reader import TrajectoryReader


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
    assert facts["costs"] is None
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
    assert "Proposals were accepted" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ensemble", "nve"], "samples at a temperature"),
        (["--guard", "none"], "needs a potential and guard is none"),
        (["--proposal-fs", "9"], "proposal_fs = 9 is not a multiple of the 2 fs"),
        (["--mode", "guarded"], "proposal and proposal_fs go with mode 'metropolised'"),
        (["--proposal", "no-such"], "no bundle 'no-such'"),
    ],
)
def test_what_cannot_be_is_refused(words, tmp_path, capsys, more, message):
    assert main(words(tmp_path / "out", *more)) == 2
    said = capsys.readouterr().err
    assert message in said.splitlines()[-1]
    assert not (tmp_path / "out" / "trajectory.zarr").exists()
