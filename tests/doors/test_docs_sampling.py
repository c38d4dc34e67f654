"""What docs/sampling.md shows can be run and read."""

import re
import tomllib

from egno_md.config import RunConfig, make_job
from tests.doors.pages import blocks, page, run_blocks

PAGE = page("sampling")


def test_the_example_runs(tmp_path, monkeypatch):
    names = run_blocks(blocks(PAGE), tmp_path, monkeypatch)
    counts = names["sampler"].statistics()
    assert counts.proposals == 20
    assert counts.acceptance > 0.5
    assert names["sampler"].frame_interval_fs == 36.0


def test_the_job_file_is_read():
    (block,) = blocks(PAGE, "toml")
    job = make_job(RunConfig, tomllib.loads(block))
    assert job.mode == "metropolised"
    assert job.proposal_fs == 36.0


def test_the_command_has_options_that_exist():
    shown = "".join(blocks(PAGE, "console"))
    known = {"--" + name.replace("_", "-") for name in RunConfig.model_fields}
    assert "--proposal-fs" in shown
    assert set(re.findall(r"--[a-z-]+", shown)) <= known
