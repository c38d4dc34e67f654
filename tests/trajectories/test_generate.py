import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from egno_md.segment import MadeBy
from egno_md.trajectories.generate import RunInterrupted, StoreOptions, frames_for, generate
from egno_md.trajectories.store_reader import TrajectoryReader

ARRAYS = (
    "positions",
    "velocities",
    "times_fs",
    "potential_energies",
    "kinetic_energies",
    "made_by",
)
PROGRAM = Path(__file__).with_name("noisy_oscillator.py")


def assert_same(first, second):
    a, b = TrajectoryReader(first), TrajectoryReader(second)
    assert a.n_frames == b.n_frames
    for name in ARRAYS:
        x, y = a.array(name), b.array(name)
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes(), name
    assert a.events == b.events


@pytest.fixture(scope="module")
def whole(oscillator, tmp_path_factory):
    """A run of 2000 frames that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "run.zarr"
    generate(oscillator.NoisyOscillator(), oscillator.start(), length_ps=2.0, store=path)
    return path


def test_frames_are_those_of_the_propagator(oscillator, tmp_path):
    start = oscillator.start()
    summary = generate(
        oscillator.NoisyOscillator(n_frames=5), start, length_ps=0.017, store=tmp_path / "a.zarr"
    )
    state, propagator, expected = start, oscillator.NoisyOscillator(n_frames=5), []
    for n in (5, 5, 5, 2):
        segment = propagator.advance(state, n)
        expected.append(segment.positions)
        state = segment.last
    reader = TrajectoryReader(tmp_path / "a.zarr")
    assert summary.n_frames == reader.n_frames == 18
    assert summary.n_frames_now == 17
    np.testing.assert_array_equal(reader.times_fs, np.arange(18.0))
    stored = reader.array("positions")
    np.testing.assert_array_equal(stored[:, 0], start.positions.float().numpy())
    np.testing.assert_array_equal(stored[:, 1:], torch.cat(expected, 1).float().numpy())
    made_by = reader.array("made_by")
    assert (made_by[:, 0] == MadeBy.GIVEN).all()
    assert (made_by[:, 1:11] == MadeBy.NETWORK).all()
    assert (made_by[:, 13:16] == MadeBy.INTEGRATOR).all()


def test_kill_at_any_moment_and_resume_is_the_undisturbed_run(oscillator, tmp_path):
    store = tmp_path / "run.zarr"
    command = [sys.executable, str(PROGRAM), str(store), "0.4", "0.0", "0.002"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    kills, ends = 0, []
    for wait_s in (0.01, 0.3, 60.0):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
        deadline = time.monotonic() + 60
        before = ends[-1] if ends else 0
        while time.monotonic() < deadline and process.poll() is None:
            # Count the wait from the first new commit, so that imports do not matter.
            if store.exists() and TrajectoryReader(store).n_frames > before:
                break
            time.sleep(0.005)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        process.stdout.close()
        reader = TrajectoryReader(store)
        reader.verify()
        ends.append(reader.n_frames)
    assert kills >= 1
    assert ends[0] < ends[-1] == 401
    other = tmp_path / "other.zarr"
    generate(oscillator.NoisyOscillator(), oscillator.start(), length_ps=0.4, store=other)
    assert_same(store, other)
    assert not list(store.rglob("*.partial"))
    assert len(list((store / "journal").glob("restart-*"))) == 1


def test_sigterm_ends_with_130_and_a_store_to_go_on_from(whole, oscillator, tmp_path):
    store = tmp_path / "run.zarr"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(store), "2.0", "100", "0.01"],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    while not store.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in said
    assert str(store) in said
    reader = TrajectoryReader(store)
    assert 1 < reader.n_frames < 2001  # nothing was due to be flushed, yet all of it is there
    generate(oscillator.NoisyOscillator(), None, length_ps=2.0, store=store, resume=True)
    assert_same(store, whole)


def test_ctrl_c_between_segments(whole, oscillator, tmp_path):
    def hook(n):
        if n == 40:
            os.kill(os.getpid(), signal.SIGINT)

    store = tmp_path / "run.zarr"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RunInterrupted, match=r"0\.32 of 2 ps.*--resume"):
        generate(
            oscillator.NoisyOscillator(hook=hook), oscillator.start(), length_ps=2.0, store=store
        )
    assert signal.getsignal(signal.SIGINT) is before
    assert TrajectoryReader(store).n_frames == 321
    generate(oscillator.NoisyOscillator(seed=9), None, length_ps=2.0, store=store, resume=True)
    assert_same(store, whole)


def test_second_ctrl_c_does_not_wait_for_the_segment(whole, oscillator, tmp_path):
    def hook(n):
        if n == 40:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    store = tmp_path / "run.zarr"
    with pytest.raises(KeyboardInterrupt):
        generate(
            oscillator.NoisyOscillator(hook=hook), oscillator.start(), length_ps=2.0, store=store
        )
    assert TrajectoryReader(store).n_frames == 1 + 39 * 8
    generate(oscillator.NoisyOscillator(), None, length_ps=2.0, store=store, resume=True)
    assert_same(store, whole)


def test_frame_that_is_not_finite_ends_the_run_before_it(oscillator, tmp_path):
    store = tmp_path / "run.zarr"
    propagator = oscillator.NoisyOscillator(fail_at_fs=100.0)
    message = r"frame at 100 fs .*position of atom 0 .*nan Å; .*the store ends at 96 fs"
    with pytest.raises(ValueError, match=message):
        generate(propagator, oscillator.start(), length_ps=1.0, store=store)
    reader = TrajectoryReader(store)
    assert reader.n_frames == 97  # the last whole segment before 100 fs
    assert np.isfinite(reader.array("positions")).all()
    again = oscillator.NoisyOscillator(fail_at_fs=100.0)
    with pytest.raises(ValueError, match="position of atom 0"):
        generate(again, None, length_ps=1.0, store=store, resume=True)


def test_time_spent_adds_up_over_sittings(oscillator, tmp_path):
    store = tmp_path / "run.zarr"
    slow = oscillator.NoisyOscillator(sleep_s=0.02)
    first = generate(slow, oscillator.start(), length_ps=0.04, store=store)
    second = generate(
        oscillator.NoisyOscillator(sleep_s=0.02), None, length_ps=0.08, store=store, resume=True
    )
    assert first.wall_s >= 5 * 0.02
    assert second.wall_s >= first.wall_s + 5 * 0.02
    assert second.cpu_s > first.cpu_s > 0
    assert second.n_frames_now == 40
    assert TrajectoryReader(store).commit.wall_s == pytest.approx(second.wall_s, rel=0.5)


def test_a_finished_run_can_be_resumed_without_harm_and_made_longer(oscillator, tmp_path):
    store, other = tmp_path / "run.zarr", tmp_path / "other.zarr"
    generate(oscillator.NoisyOscillator(), oscillator.start(), length_ps=0.08, store=store)
    same = generate(oscillator.NoisyOscillator(), None, length_ps=0.08, store=store, resume=True)
    assert same.n_frames_now == 0
    generate(oscillator.NoisyOscillator(), None, length_ps=0.16, store=store, resume=True)
    generate(oscillator.NoisyOscillator(), oscillator.start(), length_ps=0.16, store=other)
    assert_same(store, other)


def test_double_precision_and_cell_are_kept(oscillator, tmp_path):
    start = oscillator.start(cell=True)
    store = tmp_path / "run.zarr"
    options = StoreOptions(precision="float64", seed=3, config={"a": 1}, bundles={"b": "00"})
    generate(oscillator.NoisyOscillator(), start, length_ps=0.02, store=store, options=options)
    reader = TrajectoryReader(store)
    segment = reader.segment(0, 1)
    assert torch.equal(segment.positions[:, 0], start.positions)
    assert torch.equal(segment.cell, start.cell)
    assert reader.molecule.pbc == (True, True, True)
    assert (reader.header.seed, reader.header.config) == (3, {"a": 1})
    assert reader.header.bundles == {"b": "00"}


def test_existing_output_and_missing_store_are_refused(oscillator, tmp_path):
    store = tmp_path / "run.zarr"
    generate(oscillator.NoisyOscillator(), oscillator.start(), length_ps=0.01, store=store)
    with pytest.raises(FileExistsError, match=r"run\.zarr already exists.*--resume"):
        generate(oscillator.NoisyOscillator(), oscillator.start(), length_ps=0.01, store=store)
    with pytest.raises(FileNotFoundError, match="no store"):
        generate(oscillator.NoisyOscillator(), None, length_ps=1, store=tmp_path / "b", resume=True)


def test_another_frame_interval_is_refused_on_resume(oscillator, tmp_path):
    store = tmp_path / "run.zarr"
    generate(oscillator.NoisyOscillator(), oscillator.start(), length_ps=0.01, store=store)
    other = oscillator.NoisyOscillator()
    other.frame_interval_fs = 2.0
    with pytest.raises(ValueError, match=r"every 1\.0 fs.*every 2\.0 fs"):
        generate(other, None, length_ps=0.02, store=store, resume=True)


def test_a_propagator_that_gives_too_much_is_refused(oscillator, tmp_path):
    class Greedy(oscillator.NoisyOscillator):
        def advance(self, state, n_frames=None):
            return super().advance(state, None)

    with pytest.raises(ValueError, match="gave 8 frames where 4"):
        generate(Greedy(), oscillator.start(), length_ps=0.004, store=tmp_path / "run.zarr")


@pytest.mark.parametrize("length_ps", [0.0, -1.0, float("nan"), float("inf")])
def test_length_must_be_positive(length_ps):
    with pytest.raises(ValueError, match="positive number"):
        frames_for(length_ps, 1.0)


def test_length_is_rounded_to_frames():
    assert frames_for(0.1, 0.5) == 200
    assert frames_for(1e-9, 0.5) == 1
    assert frames_for(0.00099, 0.5) == 2
