import math

import numpy as np
import pytest
import torch

from egno_md.trajectories.comparison import share_of_frames
from egno_md.trajectories.divergence import (
    block_bootstrap,
    density_difference,
    jensen_shannon,
    normalised,
    sampling_floor,
)


def multinomial_blocks(n_blocks, samples, probabilities, seed=0):
    p = np.asarray(probabilities, dtype=np.float64)
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.multinomial(samples, p / p.sum(), size=n_blocks))


def test_equal_histograms_have_no_divergence():
    counts = torch.tensor([[3, 0, 5, 1], [1, 1, 1, 1]])
    assert torch.equal(jensen_shannon(counts, 7 * counts), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(density_difference(counts, 7 * counts), torch.zeros(2, dtype=torch.float64))


def test_histograms_with_nothing_in_common_are_ln_2_apart():
    first, second = torch.tensor([2, 3, 0, 0]), torch.tensor([0, 0, 1, 9])
    assert float(jensen_shannon(first, second)) == pytest.approx(math.log(2.0), abs=1e-15)
    assert float(density_difference(first, second)) == pytest.approx(2.0, abs=1e-15)


def test_divergence_is_the_textbook_value_and_symmetric():
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    expected = 0.5 * math.log(1 / 0.75) + 0.5 * (
        0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    )
    assert float(jensen_shannon(first, second)) == pytest.approx(expected, abs=1e-15)
    assert float(jensen_shannon(second, first)) == pytest.approx(expected, abs=1e-15)


def test_density_difference_is_the_published_h_of_r_error():
    rng = np.random.default_rng(1)
    edges = np.linspace(1e-6, 10.0, 501)
    samples = [rng.normal(mean, 1.0, 20_000) for mean in (4.0, 4.3)]
    densities = [np.histogram(s, edges, density=True)[0] for s in samples]
    published = np.abs(densities[0] - densities[1]).mean() * 10.0
    counts = [torch.from_numpy(np.histogram(s, edges)[0]) for s in samples]
    assert float(density_difference(*counts)) == pytest.approx(published, rel=1e-6)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0]])
def test_bad_counts_are_refused(bad):
    with pytest.raises(ValueError, match="histogram"):
        normalised(torch.tensor(bad))


def test_other_bins_are_refused():
    with pytest.raises(ValueError, match="3 and 2 bins"):
        jensen_shannon(torch.ones(3), torch.ones(2))


@pytest.mark.parametrize("n_blocks", [1.0, 8.0, 32.0])
def test_floor_of_independent_samples_is_the_known_bias(n_blocks):
    # For counts, E[divergence] = (bins - 1) / 8 * (1/n + 1/m) to first order.
    bins, samples, total = 20, 4000, 64
    blocks = multinomial_blocks(total, samples, torch.ones(bins) / bins)
    generator = torch.Generator().manual_seed(2)
    floor = sampling_floor(blocks, n_blocks, jensen_shannon, generator, n_draws=200)
    expected = (bins - 1) / 8 / samples * (1 / n_blocks + 1 / total)
    assert float(floor.mean) == pytest.approx(expected, rel=0.1)
    assert float(floor.high) > float(floor.mean)


@pytest.mark.parametrize(("measure", "power"), [(jensen_shannon, 1.0), (density_difference, 0.5)])
@pytest.mark.parametrize("n_blocks", [0.25, 128.0])
def test_floor_beyond_the_blocks_follows_its_law(measure, power, n_blocks):
    # A run as long as n_blocks against all 32 reference blocks, measured directly.
    probabilities = torch.linspace(1.0, 2.0, 16)
    samples, total = 2000, 32
    reference = multinomial_blocks(total, samples, probabilities, seed=3)
    runs = multinomial_blocks(300, int(n_blocks * samples), probabilities, seed=4)
    other = multinomial_blocks(300, total * samples, probabilities, seed=5)
    direct = float(measure(runs, other).mean())
    generator = torch.Generator().manual_seed(6)
    floor = sampling_floor(reference, n_blocks, measure, generator, noise_power=power, n_draws=300)
    assert floor.extrapolated
    assert float(floor.mean) == pytest.approx(direct, rel=0.15)


@pytest.mark.parametrize(("measure", "power"), [(jensen_shannon, 1.0), (density_difference, 0.5)])
def test_floor_of_a_run_with_few_frames_has_their_noise(measure, power):
    # Five blocks' time, but one frame of twenty: measured directly.
    probabilities = torch.linspace(1.0, 2.0, 16)
    samples, total, n_blocks = 2000, 32, 5.0
    reference = multinomial_blocks(total, samples, probabilities, seed=3)
    runs = multinomial_blocks(300, int(n_blocks * samples / 20), probabilities, seed=4)
    direct = float(measure(runs, reference.sum(0)).mean())
    generator = torch.Generator().manual_seed(6)
    options = {"noise_power": power, "n_draws": 300}
    floor = sampling_floor(reference, n_blocks, measure, generator, kept=1 / 20, **options)
    assert float(floor.mean) == pytest.approx(direct, rel=0.1)
    dense = sampling_floor(reference, n_blocks, measure, generator, **options)
    assert float(dense.mean) < 0.5 * direct


@pytest.mark.parametrize(
    ("interval_fs", "frames", "expected"), [(4.0, 100, 1.0), (64.0, 100, 0.05), (64.0, 4000, 1.0)]
)
def test_only_frames_far_apart_are_counted_one_by_one(interval_fs, frames, expected):
    run = {
        "frame_interval_fs": torch.tensor(interval_fs),
        "block_frames": torch.tensor([frames // 2, frames // 2]),
    }
    reference = {"block_frames": torch.full((8,), 1000)}
    assert share_of_frames(run, reference, 2.0) == pytest.approx(expected)


def test_floor_needs_blocks_and_a_length():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="at least 2"):
        sampling_floor(torch.ones(1, 4), 1.0, jensen_shannon, generator)
    with pytest.raises(ValueError, match="positive"):
        sampling_floor(torch.ones(4, 4), float("nan"), jensen_shannon, generator)


def test_bootstrap_error_is_the_spread_of_repeated_runs():
    probabilities = torch.linspace(1.0, 3.0, 10)
    reference = torch.ones(10)
    runs = [multinomial_blocks(16, 500, probabilities, seed=10 + n) for n in range(400)]
    values = [float(jensen_shannon(blocks.sum(0), reference)) for blocks in runs]
    generator = torch.Generator().manual_seed(0)
    errors = [
        float(block_bootstrap(blocks, reference, jensen_shannon, generator)[1])
        for blocks in runs[:40]
    ]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_one_block_has_no_error():
    value, error = block_bootstrap(
        torch.tensor([[1, 3]]), torch.tensor([1, 1]), jensen_shannon, torch.Generator()
    )
    assert float(value) > 0
    assert math.isnan(float(error))
