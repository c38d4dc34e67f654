"""The page on segments in OpenMM shows what runs."""

from __future__ import annotations

import mdtraj

from tests.doors.pages import blocks, page, run_blocks


def test_what_the_page_shows_runs(tmp_path, monkeypatch, capsys) -> None:
    shown = blocks(page("openmm_segments"))
    assert len(shown) == 3
    names = run_blocks(shown, tmp_path, monkeypatch)
    sim, plain = names["sim"], names["plain"]
    assert (sim.currentStep, plain.currentStep) == (24, 2)
    assert names["sampler"].statistics().proposals == 3
    assert names["exact"].currentStep == 3
    sim.reporters.clear()
    topology = mdtraj.Topology.from_openmm(sim.topology)
    assert mdtraj.load(tmp_path / "out.dcd", top=topology).n_frames == 12
    assert capsys.readouterr().out.count("\n") == 5
