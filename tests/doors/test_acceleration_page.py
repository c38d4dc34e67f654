"""The code on the page about acceleration runs, and its options exist."""

import re
import warnings
from pathlib import Path

from egno_md.config import RunConfig, read_job

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "acceleration.md").read_text()


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    (tmp_path / "egno_md").symlink_to(ROOT / "egno_md")
    monkeypatch.chdir(tmp_path)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
            exec(block, names)
    said = capsys.readouterr().out
    assert "Evaluations(outer=5, inner=17, probing=24)" in said
    assert "parareal: 2 slabs in 1 windows" in said
    assert names["integrator"].getStepSize()._value == 0.002


def test_the_commands_are_understood():
    commands = re.findall(r"^egno-md run (.*?)^```", PAGE, re.M | re.S)
    assert len(commands) == 2
    for command in commands:
        config = read_job(RunConfig, command.replace("\\\n", " ").split())
        assert config.mode in ("classical", "parareal")
