"""Effective samples of slow coordinates: counted right, named, and honest about short runs."""

import math

import numpy as np
import pytest
import torch

from egno_md.state import Molecule
from egno_md.trajectories import effective_samples
from egno_md.trajectories.effective_samples import SlowSeries, count_effective
from egno_md.trajectories.inefficiency import statistical_inefficiency
from egno_md.trajectories.slow_coordinates import slow_pairs, slow_torsions, slow_values

BUTANE = Molecule.from_numbers([6, 6, 6, 6, 1, 1], bonds=[(0, 1), (1, 2), (2, 3), (0, 4), (3, 5)])


def relaxing(memory, shape, seed=0):
    """Series `(n_replicas, n_frames)` with correlations memory^t: g = (1 + m) / (1 - m)."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = noise.clone()
    for t in range(1, shape[1]):
        x[:, t] = memory * x[:, t - 1] + (1 - memory**2) ** 0.5 * noise[:, t]
    return x


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, -0.6])
def test_the_inefficiency_is_the_one_of_pymbar(memory):
    timeseries = pytest.importorskip("pymbar.timeseries")
    x = relaxing(memory, (1, 3000))
    theirs = timeseries.statistical_inefficiency(x[0].numpy(), mintime=0)
    assert float(statistical_inefficiency(x)) == pytest.approx(theirs, rel=1e-6)
    if memory > 0:  # the default is another one only where correlations swing
        theirs = timeseries.statistical_inefficiency(x[0].numpy())
        assert float(statistical_inefficiency(x)) == pytest.approx(theirs, rel=1e-6)


def test_of_several_replicas_it_is_the_one_of_pymbar():
    timeseries = pytest.importorskip("pymbar.timeseries")
    x = relaxing(0.8, (3, 400), seed=3) + 0.5
    theirs = timeseries.statistical_inefficiency_multiple(list(np.asarray(x)))
    assert float(statistical_inefficiency(x)) == pytest.approx(theirs, rel=1e-6)


def test_the_slowest_coordinate_is_found_and_named():
    slow, fast = relaxing(0.95, (8, 4000), seed=1), relaxing(0.5, (8, 4000), seed=2)
    still = torch.full_like(slow, 1.5)
    series = torch.stack([fast, 3.0 + 1e-2 * slow, still], -1)
    found = count_effective(series, ("a", "b", "c"), 2.0)
    assert found.slowest_name == "b"
    assert found.n_coordinates == 2
    assert found.slowest == pytest.approx(32_000 / 39.0, rel=0.25)
    # The averaged correlation has the average of both sums: g = (3 + 39) / 2.
    assert found.mean == pytest.approx(32_000 / 21.0, rel=0.25)
    assert not found.too_short
    assert found.to_json(4.0)["slowest_per_cpu_s"] == found.slowest / 4.0
    assert f"{found.slowest:.0f}, {found.slowest / 4.0:.3g} per CPU-second" in found.sentence(4.0)
    assert found.to_json(math.nan)["mean_per_cpu_s"] is None
    assert "per CPU-second" not in found.sentence(math.nan)


def test_replicas_that_keep_to_their_basins_are_one_sample_each():
    basins = torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    x = basins + 0.1 * relaxing(0.0, (4, 1000))
    found = count_effective(x[..., None], ("torsion",), 1.0)
    assert found.slowest < 6
    assert found.too_short
    assert "too short to tell" in found.sentence(1.0)
    assert found.to_json(1.0)["too_short_to_tell"]
    assert count_effective(torch.ones((2, 5, 1), dtype=torch.float64), ("x",), 1.0) is None


def test_replicas_shorter_than_their_memory_are_too_short_however_many():
    x = relaxing(0.99, (50, 60), seed=5)  # each a third of g = 199
    found = count_effective(x[..., None], ("torsion",), 1.0)
    assert found.slowest > 10
    assert found.needed == 150
    assert found.too_short
    assert "too short to tell (below 150 in 50 replicas)" in found.sentence(1.0)
    longer = count_effective(relaxing(0.5, (50, 60), seed=5)[..., None], ("torsion",), 1.0)
    assert not longer.too_short


def test_no_rate_where_the_slowest_is_too_short_to_tell():
    slow, fast = relaxing(0.999, (4, 400), seed=1), relaxing(0.0, (4, 400), seed=2)
    series = torch.stack([fast] * 19 + [slow], -1)
    found = count_effective(series, (*"abcdefghijklmnopqrs", "torsion"), 1.0)
    assert found.mean > found.needed > found.slowest
    said = found.sentence(2.0)
    assert f"{found.mean:.0f} effective samples of slow coordinates on average" in said
    assert "too short to tell for the slowest, torsion (below 12 in 4 replicas)" in said
    assert "CPU-second" not in said
    fields = found.to_json(2.0)
    assert (fields["mean_per_cpu_s"], fields["slowest_per_cpu_s"]) == (None, None)
    assert fields["mean"] == found.mean


def test_one_torsion_about_each_bond_heavy_where_possible():
    assert slow_torsions(BUTANE).tolist() == [[4, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 5]]
    assert slow_pairs(BUTANE).tolist() == [[0, 3], [0, 5], [1, 5], [2, 4], [3, 4], [4, 5]]
    pair = Molecule.from_numbers([6, 6], bonds=[(0, 1)])
    assert slow_pairs(pair).tolist() == [[0, 1]]
    assert slow_torsions(pair).shape == (0, 4)
    assert slow_pairs(Molecule.from_numbers([6])).shape == (0, 2)


class TestSeries:
    def frames(self, n):
        generator = torch.Generator().manual_seed(4)
        return torch.randn((2, n, 6, 3), generator=generator)

    def series(self, n_frames):
        return SlowSeries(BUTANE, n_replicas=2, n_frames=n_frames, frame_interval_fs=4.0)

    def test_chunks_are_put_together(self):
        x = self.frames(50)
        slow = self.series(50)
        for part in x.split(7, 1):
            slow.add(part)
        found = slow.result()
        values = slow_values(x.reshape(-1, 6, 3), slow_pairs(BUTANE), slow_torsions(BUTANE))
        whole = count_effective(
            values.float().double().reshape(2, 50, -1), tuple("abcdefghijkl"), 4.0
        )
        assert (found.mean, found.slowest) == (whole.mean, whole.slowest)
        assert (found.n_frames, found.spacing_fs, found.n_coordinates) == (100, 4.0, 12)
        assert found.slowest_name.split()[0] in ("distance", "torsion")

    def test_a_long_run_is_looked_at_now_and_then(self, monkeypatch):
        monkeypatch.setattr(effective_samples, "_MOST_VALUES", 2 * 50 * 12 // 3)
        x = self.frames(50)
        slow = self.series(50)
        for part in x.split(8, 1):
            slow.add(part)
        found = slow.result()
        assert found.spacing_fs == 12.0
        assert found.n_frames == 2 * 17

    def test_replicas_that_fail_are_left_out(self):
        x = self.frames(20)
        x[1, 10:] = math.nan
        slow = self.series(20)
        slow.add(x)
        assert slow.result().n_frames == 20
        broken = self.series(20)
        broken.add(torch.full_like(x, math.nan))
        assert broken.result() is None
        assert self.series(20).result() is None
