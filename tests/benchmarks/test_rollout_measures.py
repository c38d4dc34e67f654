"""Long runs measured as they go: against stored runs, and where the answer is known."""

import math
from dataclasses import replace

import pytest
import torch

from egno_md.benchmarks.rollout_measures import heating, roll, standard_error
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.segment import MadeBy, Segment
from egno_md.state import kinetic_energy
from egno_md.trajectories.histograms import Bins
from egno_md.trajectories.statistics import trajectory_statistics

from .springs import LENGTHS, MOLECULE, REST, Springs, start

BINS = Bins.around(MOLECULE, REST[None])


def langevin(seed=0, n_frames=4):
    bath = (300.0, 20.0, torch.Generator().manual_seed(seed))
    return Langevin(Springs(), 0.5, 2.0, n_frames, *bath)


class Breaking:
    """A propagator, but from a time on one replica's bond is torn, or a number is lost."""

    reversible = volume_preserving = False
    frame_interval_fs, n_frames = 2.0, 4

    def __init__(self, inner, replica, from_fs, how):
        self.inner, self.replica, self.from_fs, self.how = inner, replica, from_fs, how

    def advance(self, state, n_frames=None):
        segment = self.inner.advance(state, n_frames)
        x = segment.positions.clone()
        late = (segment.times_fs >= self.from_fs).nonzero()[:, 0]
        if self.how == "torn":
            x[self.replica, late, 0] += 5.0
        else:
            x[self.replica, late] = float("nan")
        return replace(segment, positions=x)


class Heater:
    """No forces; the kinetic energy of every replica grows by so much per frame."""

    reversible = volume_preserving = False
    frame_interval_fs, n_frames = 4.0, 5

    def __init__(self, gain_eV):
        self.gain_eV = gain_eV

    def advance(self, state, n_frames=None):
        n = self.n_frames if n_frames is None else n_frames
        vs, v = [], state.velocities
        for _ in range(n):
            before = kinetic_energy(state.molecule, v)
            v = v * ((before + self.gain_eV) / before).sqrt()[:, None, None]
            vs.append(v)
        return Segment(
            state.molecule,
            state.time_fs + 4.0 * torch.arange(1, n + 1, dtype=torch.float64),
            state.positions[:, None].expand(-1, n, -1, -1),
            torch.stack(vs, 1),
            torch.full((state.n_replicas, n), int(MadeBy.NETWORK), dtype=torch.int8),
        )


def test_counted_on_the_way_as_from_a_stored_run():
    whole = langevin(n_frames=300).advance(start(3), 300)
    stored = trajectory_statistics(
        MOLECULE, whole.positions, whole.velocities, frame_interval_fs=2.0, bins=BINS
    )
    ticks = []
    record = roll(langevin(n_frames=300), start(3), 300, BINS, LENGTHS, 50, ticks.append)
    assert sum(ticks) == 300
    for key in ("bond_counts", "pair_counts", "angle_counts", "block_frames"):
        assert torch.equal(record[key], stored[key]), key
    assert torch.allclose(
        record["element_temperature_mean_K"], stored["element_temperature_mean_K"], rtol=1e-12
    )
    assert bool(torch.isnan(record["failed_fs"]).all())
    assert record["vdos_power"].shape == (3, 26)


def test_a_bath_shows_its_temperature_within_the_error():
    record = roll(langevin(), start(16), 500, BINS, LENGTHS, 50)
    off = (record["element_temperature_mean_K"] - 300.0).abs()
    errors = record["element_temperature_error_K"]
    assert bool((errors < 25.0).all())
    assert bool((errors > 1.0).all())
    assert bool((off < 4 * errors + 0.03 * 300.0).all())


@pytest.mark.parametrize("how", ["torn", "nan"])
def test_a_failed_replica_is_reported_and_not_counted(how):
    breaking = Breaking(langevin(), 1, 201.0, how)
    record = roll(breaking, start(3), 150, BINS, LENGTHS, 50)
    assert torch.isnan(record["failed_fs"]).tolist() == [True, False, True]
    assert float(record["failed_fs"][1]) == 202.0
    # 100 frames of 2 fs end at 200 fs.
    assert record["block_frames"].tolist() == [150, 100, 150]
    assert int(record["n_bad_frames"]) == 50
    assert bool(torch.isfinite(record["element_temperature_mean_K"]).all())
    assert float(record["bond_max_A"].max()) < 1.4 + 0.5


def test_a_run_that_fails_at_once_ends():
    torn = langevin()
    for replica in range(2):
        torn = Breaking(torn, replica, 0.0, "nan")
    record = roll(torn, start(2), 10**9 // 2, BINS, LENGTHS, 50)
    assert record["failed_fs"].tolist() == [2.0, 2.0]
    assert "bond_counts" not in record


def test_standard_error_of_a_correlated_series():
    generator = torch.Generator().manual_seed(3)
    c, n, replicas = 0.9, 4000, 16
    noise = torch.randn((replicas, n), generator=generator, dtype=torch.float64)
    series, now = torch.empty_like(noise), noise[:, 0]
    for k in range(n):
        now = c * now + math.sqrt(1 - c * c) * noise[:, k]
        series[:, k] = now
    exact = math.sqrt((1 + c) / (1 - c) / (n * replicas))
    assert standard_error(series) == pytest.approx(exact, rel=0.15)
    series[3, 7] = float("nan")
    assert standard_error(series) == pytest.approx(exact * math.sqrt(16 / 15), rel=0.2)
    assert math.isnan(standard_error(series[3:4]))


def test_heating_of_a_known_rate():
    class Nothing:
        def energies(self, state):
            return torch.zeros(state.n_replicas, dtype=torch.float64)

    gain = 0.0003
    found = heating(Heater(gain), Nothing(), start(4), 100, LENGTHS, n_points=10)
    expected = gain / 4e-3 * 1000.0 / 3
    assert found.per_replica == pytest.approx([expected] * 4, rel=1e-9)
    assert found.n_failed == 0


def test_classical_dynamics_does_not_heat_and_a_torn_replica_is_left_out():
    verlet = VelocityVerlet(Springs(), 0.25, 2.0, 4)
    calm = heating(verlet, Springs(), start(4), 150, LENGTHS)
    assert max(map(abs, calm.per_replica)) < 1.0
    torn = heating(Breaking(verlet, 2, 101.0, "torn"), Springs(), start(4), 150, LENGTHS)
    assert (len(torn.per_replica), torn.n_failed) == (3, 1)
