"""The README says only what is there."""

import re
import tomllib

import ase.io
import pytest

from egno_md import cli
from egno_md.config import RunConfig, TrainConfig
from egno_md.job import read_job
from tests.doors.pages import ROOT, blocks, page, run_blocks

README = page("README")


def commands():
    """Command lines shown in console blocks, without the prompt and the remark."""
    for block in blocks(README, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield line[2:].split(" # ")[0].strip()


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_the_two_commands_are_shown():
    assert {"make demo", "make test"} <= set(commands())


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.M))
    shown = {c.split()[1] for c in commands() if c.startswith("make ")}
    assert shown
    assert shown <= targets
    assert "egno-md run --example ethanol" in makefile
    assert "-m pytest" in makefile


def test_every_verb_that_is_named_exists_and_every_verb_is_named():
    named = set(re.findall(r"egno-md ([a-z]+)", README))
    assert named - {"makes"} == set(cli.verbs())


def test_options_that_are_named_exist():
    known = {"--help", "--resume", "--example"}
    fields = {"--" + f.replace("_", "-") for f in RunConfig.model_fields}
    for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", README):
        assert option in known | fields, option


def test_python_blocks_compile_and_import():
    shown = blocks(README)
    assert shown
    for block in shown:
        compile(block, "README.md", "exec")
        for line in block.splitlines():
            if line.startswith(("from egno_md", "import egno_md")):
                exec(line, {})


def test_python_blocks_run(tmp_path, monkeypatch):
    run_blocks(blocks(README), tmp_path, monkeypatch)
    assert len(ase.io.read(tmp_path / "out.traj", ":")) == 101
    assert (tmp_path / "out.dcd").stat().st_size > 22 * 3 * 4 * 8


def test_the_install_line_names_a_real_constraints_file():
    (line,) = [c for c in commands() if c.startswith("pip install")]
    assert (ROOT / line.split("-c ")[1].split()[0]).is_file()


def test_every_packaged_job_file_is_readable():
    files = sorted((ROOT / "egno_md" / "examples").glob("*.toml"))
    assert files
    for path in files:
        read_job(TrainConfig if path.stem.startswith("train_") else RunConfig, [str(path)])


def test_the_example_option_means_its_job_file():
    path = ROOT / "egno_md" / "examples" / "ethanol.toml"
    assert tomllib.loads(path.read_text())["example"] == "ethanol"
    job = read_job(RunConfig, [str(path)])
    assert read_job(RunConfig, ["--example", "ethanol"]) == job
    assert job.n_replicas != RunConfig(example="ethanol").n_replicas  # so the file was read
    assert read_job(RunConfig, ["--example", "ethanol", "--length-ps", "3"]).length_ps == 3.0
    assert read_job(RunConfig, ["--example", "../ethanol"]) == RunConfig(example="../ethanol")


@pytest.mark.parametrize("heading", ["What it cannot do", "How to cite"])
def test_sections_are_there(heading):
    assert f"## {heading}\n" in README
