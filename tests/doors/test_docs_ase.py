"""The examples of docs/ase.md run, one after the other, as a reader would."""

import warnings
from pathlib import Path

import ase.io
import pytest

from egno_md.calculators.segment_force import STABLE_TURN
from egno_md.models.neighbours import THINNEST_CELL_A
from tests.doors.pages import ROOT, blocks, page, run_blocks

PAGE = page("ase")


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    shown = blocks(PAGE)
    assert len(shown) == 5
    names = run_blocks(shown, tmp_path, monkeypatch)
    assert "network" in capsys.readouterr().out
    times = [float(x.split()[0]) for x in Path("ethanol.log").read_text().splitlines()[1:]]
    assert times == pytest.approx([0.03 * k for k in range(7)])
    frames = ase.io.read("ethanol.traj", ":")
    assert all("forces" in frame.calc.results for frame in frames)
    assert names["resumed"].nsteps == 80
    assert names["sampler"].statistics().proposals == 10
    assert names["sampler"].statistics().acceptance > 0.5
    assert names["nested"].evaluations().outer == 5


def test_numbers_on_the_page_are_those_of_the_code():
    assert f"thinner than {THINNEST_CELL_A:g} Å" in PAGE
    assert f"more\nthan {STABLE_TURN:g} rad" in PAGE
    import egno_md

    calculator = egno_md.SegmentForceCalculator("ethanol-egno", span_fs=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.get_forces(ase.io.read(ROOT / "egno_md" / "examples" / "ethanol.xyz"))
    assert f"beyond about {STABLE_TURN * 2.0 / calculator.turn:.0f} fs" in PAGE
