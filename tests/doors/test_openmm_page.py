"""The code on the page about OpenMM runs."""

import pytest

from tests.doors.pages import blocks, page, run_blocks

BLOCKS = blocks(page("openmm"))


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    names = run_blocks((b for b in BLOCKS if "openmmml" not in b), tmp_path, monkeypatch)
    assert capsys.readouterr().out.endswith("kJ/mol\n")
    assert names["integrator"].getStepSize()._value == 0.001
    openmmml = pytest.importorskip("openmmml", reason="openmm-ml is not installed")
    if "escn" not in openmmml.MLPotential._implFactories:
        pytest.skip("this egno-md was installed before it had the plug-in; install it again")
    (block,) = (b for b in BLOCKS if "openmmml" in b)
    exec(block, names)
    assert names["system"].getNumParticles() == 9
