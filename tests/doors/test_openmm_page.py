"""The code on the page about OpenMM runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "openmm.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    (tmp_path / "egno_md").symlink_to(ROOT / "egno_md")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in (b for b in BLOCKS if "openmmml" not in b):
        exec(block, names)
    assert capsys.readouterr().out.endswith("kJ/mol\n")
    assert names["integrator"].getStepSize()._value == 0.001
    openmmml = pytest.importorskip("openmmml", reason="openmm-ml is not installed")
    if "escn" not in openmmml.MLPotential._implFactories:
        pytest.skip("this egno-md was installed before it had the plug-in; install it again")
    (block,) = (b for b in BLOCKS if "openmmml" in b)
    exec(block, names)
    assert names["system"].getNumParticles() == 9
