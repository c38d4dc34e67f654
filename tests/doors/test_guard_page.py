"""The code on the page about the guard runs, and its options exist."""

import re

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.config import RunConfig, read_job
from tests.doors.pages import blocks, page, run_blocks

PAGE = page("guard")


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    names = run_blocks(blocks(PAGE), tmp_path, monkeypatch)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("GuardStatistics(segments=1, frames_by={'GIVEN': 0, 'NETWORK': 24,")
    assert 0.0 < names["judge"].largest_eV < 0.1
    assert said[2:] == ["299", "True", "(None,)"]


def test_the_commands_and_options_are_understood():
    first, second = re.findall(r"^(?:\$ )?egno-md run (.*?)^```", PAGE, re.M | re.S)
    config = read_job(RunConfig, first.split())
    assert (config.guard_calibration_windows, config.recover_after) == (299, 8)
    config = read_job(RunConfig, second.replace("\\\n", " ").split())
    assert config.other_networks == ("transferable-egno",)
    for command in re.findall(r"`egno-md benchmark (.*?)`", PAGE):
        assert read_job(BenchmarkConfig, command.split()).name == "guard"
    fields = set(RunConfig.model_fields) | set(BenchmarkConfig.model_fields)
    for option in re.findall(r"--([a-z][a-zA-Z-]+)", PAGE):
        assert option.replace("-", "_") in fields, option
