"""The page on segments in OpenMM shows what runs."""

from __future__ import annotations

import re
from pathlib import Path

import mdtraj

PAGE = Path(__file__).resolve().parents[2] / "docs" / "openmm_segments.md"


def test_what_the_page_shows_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    sim, plain = names["sim"], names["plain"]
    assert (sim.currentStep, plain.currentStep) == (24, 2)
    sim.reporters.clear()
    topology = mdtraj.Topology.from_openmm(sim.topology)
    assert mdtraj.load(tmp_path / "out.dcd", top=topology).n_frames == 12
    assert capsys.readouterr().out.count("\n") == 5
