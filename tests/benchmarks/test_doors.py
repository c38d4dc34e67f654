"""The benchmark of the doors, on few steps."""

import time

import numpy as np
import pytest

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks import doors, time_step_runs
from egno_md.benchmarks.door_steps import LOOP, FreePotential, Walker, _Asked
from egno_md.benchmarks.model_clock import Door, ModelClock, take_turns


def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


class Model:
    def outer(self):
        spin(0.01)
        self.inner()

    def inner(self):
        spin(0.01)


def test_the_clock_tells_model_and_door_apart():
    clock, model = ModelClock(), Model()
    clock.watch(model, "outer", "inner")
    prepared = []

    def act():
        spin(0.02)
        model.outer()
        model.inner()

    door = Door("door", "step", act, units=2, prepare=lambda: prepared.append(spin(0.01)))
    ((first, _),) = take_turns([door], clock, rounds=2, warm=1)
    assert len(prepared) == 3
    assert clock.calls == 6  # of three turns; the inner call within the outer counts once
    assert first.inside == pytest.approx(0.015, abs=0.004)
    assert first.outside == pytest.approx(0.010, abs=0.004)


def test_a_failing_model_leaves_the_clock_right():
    class Broken:
        def act(self):
            raise ValueError("no")

    clock, broken, model = ModelClock(), Broken(), Model()
    clock.watch(broken, "act")
    clock.watch(model, "inner")
    with pytest.raises(ValueError, match="no"):
        broken.act()
    model.inner()
    assert clock.calls == 2
    assert clock.seconds > 0.009


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(doors, "ROUNDS", 2)
    monkeypatch.setattr(doors, "N_FRAMES", 3)
    monkeypatch.setattr(time_step_runs, "N_CALLS", 8)
    monkeypatch.setattr(time_step_runs, "_N_FRAMES", (3, 2))


def test_the_tables(short):
    config = BenchmarkConfig(name="doors", rows=("potentials", "segments"))
    potentials, segments = doors.measure(config)
    for table in (potentials, segments):
        for name, per, model, middle, low, high, share in table.rows:
            assert 0 < low.mean <= middle.mean <= high.mean, (name, per)
            assert (model is None) == (share is None) == ("cost" in name or "zeros" in name)
    names = [row[0] for row in segments.rows]
    for door in ("SegmentDynamics", "SegmentSimulation", "SegmentIntegrator", "SegmentForce"):
        assert any(door in name for name in names)


def test_longer_steps(short):
    (table,) = doors.measure(BenchmarkConfig(name="doors", rows=("time-steps",), n_replicas=1))
    rows = {row[0]: row for row in table.rows}
    # One evaluation for each outer step, and one for the start.
    assert rows["Verlet, 0.5 fs"][2] == pytest.approx(2000, rel=0.05)
    assert rows["MTS, 4 fs"][2] == pytest.approx(250, rel=0.15)
    assert rows["MTS, 4 fs"][4] > 2.0
    assert rows["MTS, Langevin 10/ps, 4 fs"][6] is None
    assert rows["MTS, 4 fs"][7].mean < 20.0
    assert rows["MTS, 2 fs"][9].mean == pytest.approx(1.0, abs=0.7)
    assert "misses" in table.notes[0]
    asked = BenchmarkConfig(name="doors", rows=("time-steps",), n_replicas=1, length_ps=0.032)
    (table,) = doors.measure(asked)
    assert [row[1] for row in table.rows] == pytest.approx([0.032] * len(table.rows))
    assert "0.032 ps each" in table.caption


def test_a_smaller_network_inside(short):
    # The same one: nothing is left for the outside.
    both = ("ethanol-escn", "ethanol-escn")
    asked = BenchmarkConfig(name="doors", rows=("time-steps",), n_replicas=1, potentials=both)
    (table,) = doors.measure(asked)
    rows = {row[0]: row for row in table.rows}
    assert "with ethanol-escn inside" in table.caption
    assert "misses 0 %" in table.notes[0]
    assert rows["MTS, 4 fs"][7].mean < 0.5
    three = asked.model_copy(update={"potentials": ("ethanol-escn",) * 3})
    with pytest.raises(ValueError, match="got 3"):
        doors.measure(three)


def test_the_function_for_openmm_is_quick():
    # 201 atoms in a cell; without a model in between, so that caches are warm. The best of many
    # turns: what else the machine does can only add.
    walker = Walker(doors._water(1), 1)
    asked = _Asked(walker, FreePotential(walker.state.molecule.n_atoms), LOOP)
    times = []
    for _ in range(5):
        asked.move()
        begin = time.process_time()
        asked.ask()
        times.append((time.process_time() - begin) / LOOP)
    assert min(times) < 100e-6
    assert np.isfinite(times).all()


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        doors.measure(BenchmarkConfig(name="doors", rows=("fast",)))
    with pytest.raises(ValueError, match="processor time"):
        doors.measure(BenchmarkConfig(name="doors", device="cuda"))
