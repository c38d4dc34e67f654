"""What docs/ledger.md shows can be run and read."""

import re

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.acceleration_rows import ROWS
from egno_md.job import read_job
from tests.doors.pages import blocks, page, run_blocks

PAGE = page("ledger")


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    names = run_blocks(blocks(PAGE), tmp_path, monkeypatch)
    deviation, freedom = capsys.readouterr().out.split()
    assert float(deviation) < 1e-8
    assert int(freedom) == 27 - 6
    assert names["segment"].n_frames == 2


def test_the_commands_are_understood():
    commands = re.findall(r"^\$ egno-md benchmark (.*)$", PAGE, re.M)
    assert len(commands) == 3
    for command in commands:
        assert read_job(BenchmarkConfig, command.split()).name == "acceleration"


def test_the_number_of_rows_is_right():
    assert f"{len(ROWS)} rows of `--cpu-minutes`" in PAGE
