"""The code on the page about acceleration runs, and its options exist."""

import re

from egno_md.config import RunConfig, read_job
from tests.doors.pages import blocks, page, run_blocks

PAGE = page("acceleration")


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    names = run_blocks(blocks(PAGE), tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert "Evaluations(outer=5, inner=17, probing=24, probing_outer=24)" in said
    assert "parareal: 2 slabs in 1 windows" in said
    assert names["integrator"].getStepSize()._value == 0.002


def test_the_commands_are_understood():
    commands = re.findall(r"^egno-md run (.*?)^```", PAGE, re.M | re.S)
    assert len(commands) == 2
    for command in commands:
        config = read_job(RunConfig, command.replace("\\\n", " ").split())
        assert config.mode in ("classical", "parareal")
