"""What docs/quick_potentials.md shows can be run and read."""

import json
import re

from egno_md.cli import main
from egno_md.config import RunConfig, TrainConfig
from egno_md.job import read_job
from tests.doors.pages import blocks, page, run_blocks

PAGE = page("quick_potentials")


def commands(verb):
    """The arguments of the page's commands of a verb."""
    shown = PAGE.replace("\\\n", " ")
    return [line.split() for line in re.findall(rf"^\$ egno-md {verb} (.*)$", shown, re.M)]


def test_the_example_runs(tmp_path, monkeypatch):
    names = run_blocks(blocks(PAGE), tmp_path, monkeypatch)
    assert names["sampler"].statistics().proposals == 20
    assert names["sampler"].statistics().acceptance > 0.5


def test_the_training_command_is_understood():
    for words in commands("train"):
        job = read_job(TrainConfig, words)
        assert (job.kind, job.n_samples, job.optimizer) == ("distance", 6000, "soap")


def test_the_runs_go_shorter(tmp_path, capsys):
    short = ["--n-replicas", "2", "--equilibration-ps", "0.064", "--no-report", "--export"]
    for k, words in enumerate(commands("run")):
        config = read_job(RunConfig, words)
        assert "ethanol-distance" in (config.proposal, config.inner_potential)
        length = "0.512" if config.mode == "metropolised" else "0.03"
        out = tmp_path / str(k)
        assert main(["run", *words, *short, "--length-ps", length, "--out", str(out)]) == 0
        facts = json.loads((out / "run.json").read_text())
        if config.mode == "metropolised":
            assert facts["sampling"]["acceptance"] > 0.25
    said = capsys.readouterr().out
    assert "proposals of 256 fs" in said
    assert "force evaluations: " in said
