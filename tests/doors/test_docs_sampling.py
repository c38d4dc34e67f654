"""What docs/sampling.md shows can be run and read."""

import re
import tomllib
from pathlib import Path

from egno_md.config import RunConfig, make_job

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "sampling.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def test_the_example_runs(monkeypatch):
    (block,) = blocks("python")
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    exec(compile(block, "sampling.md", "exec"), names)
    counts = names["sampler"].statistics()
    assert counts.proposals == 20
    assert counts.acceptance > 0.5
    assert names["sampler"].frame_interval_fs == 36.0


def test_the_job_file_is_read():
    (block,) = blocks("toml")
    job = make_job(RunConfig, tomllib.loads(block))
    assert job.mode == "metropolised"
    assert job.proposal_fs == 36.0


def test_the_command_has_options_that_exist():
    shown = "".join(blocks("console"))
    known = {"--" + name.replace("_", "-") for name in RunConfig.model_fields}
    assert "--proposal-fs" in shown
    assert set(re.findall(r"--[a-z-]+", shown)) <= known
