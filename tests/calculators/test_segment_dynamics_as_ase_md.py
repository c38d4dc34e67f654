"""What ase.test.md asks of ASE's drivers, asked of the driver of segments."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import compare_atoms
from ase.io import Trajectory

from egno_md.calculators.potential_calculator import PotentialCalculator
from egno_md.calculators.segment_dynamics import SegmentDynamics
from tests.calculators.tethered_atoms import Oscillators, Tethers, some_atoms

BATHS = [
    {},
    {"temperature_K": 300.0},
    {"temperature_K": 300.0, "thermostat": "bussi"},
    {"temperature_K": 300.0, "thermostat": "andersen"},
]


def driver(atoms: Atoms, propagator=None, **options) -> SegmentDynamics:
    return SegmentDynamics(atoms, propagator or Oscillators(), bonds=[], **options)


def test_run_twice() -> None:
    with driver(some_atoms()) as dyn:
        dyn.run(5)
        dyn.run(5)
    assert dyn.nsteps == dyn.max_steps == 10


def test_irun_start() -> None:
    start = some_atoms()
    atoms = start.copy()
    with driver(atoms) as dyn:
        irun = dyn.irun(10)
        next(irun)
        assert not compare_atoms(start, atoms)
        next(irun)
        assert compare_atoms(start, atoms) == ["positions"]


def test_irun_call_order(monkeypatch) -> None:
    dyn, calls = driver(some_atoms()), []
    for name in ("step", "_refresh_properties", "log", "call_observers"):
        monkeypatch.setattr(dyn, name, lambda *args, name=name: calls.append(name))
    list(dyn.irun(2))
    after = ["_refresh_properties", "log", "call_observers"]
    assert calls == after + (["step", *after]) * 2


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("bath", BATHS[:2])
def test_log_and_trajectory_agree(interval, bath, tmp_path) -> None:
    atoms, calculator = some_atoms(), PotentialCalculator(Tethers())
    atoms.calc = calculator
    log, trajectory = str(tmp_path / "md.log"), str(tmp_path / "md.traj")
    files = {"logfile": log, "trajectory": trajectory, "loginterval": interval}
    with driver(atoms, **bath, **files) as dyn:
        dyn.run(5)
        dyn.run(5)
    lines = (tmp_path / "md.log").read_text().splitlines()[1:]
    with Trajectory(trajectory) as frames:
        assert len(lines) == len(frames) == 10 // interval + 1
        for k, (frame, line) in enumerate(zip(frames, lines, strict=True)):
            time_ps, total, potential, kinetic, kelvin = (float(word) for word in line.split())
            assert time_ps == pytest.approx(0.002 * k * interval, abs=1e-4)
            assert frame.get_potential_energy() == pytest.approx(potential, abs=1e-4)
            assert frame.get_kinetic_energy() == pytest.approx(kinetic, abs=1e-4)
            assert frame.get_total_energy() == pytest.approx(total, abs=2e-4)
            assert frame.get_temperature() == pytest.approx(kelvin, abs=0.1)
            assert frame.get_forces().shape == (3, 3)
        if not bath:
            totals = [frame.get_total_energy() for frame in frames]
            assert np.ptp(totals) < 1e-9
        description = frames.description
    assert description["md-type"] == "SegmentDynamics"
    assert description["frames_per_segment"] == 5
    assert description.get("thermostat") == ("langevin" if bath else None)
    # One evaluation with forces for every frame that was written, and no other.
    assert calculator.potential.calls == 10 // interval + 1
