import itertools

import pytest
import torch

from egno_md.state import Molecule
from egno_md.trajectories.comparison import bins_for, compare
from egno_md.trajectories.radial_distribution import (
    RADIAL_BINS,
    RadialCounter,
    RadialDifference,
    element_pairs,
    radial_distribution,
    radial_labels,
    radial_range_A,
)
from egno_md.trajectories.statistics import trajectory_statistics

PERIODIC = (True, True, True)
SKEWED = torch.tensor([[9.0, 0, 0], [2.0, 8.0, 0], [-1.0, 1.5, 8.5]], dtype=torch.float64)


def copper(n_cells):
    """An fcc lattice: positions `(4 n^3, 3)` and the side of its cell, Å."""
    corners = torch.tensor(list(itertools.product(range(n_cells), repeat=3)), dtype=torch.float64)
    basis = torch.tensor([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]).double()
    return 3.63 * (corners[:, None] + basis).reshape(-1, 3), 3.63 * n_cells


def test_ideal_gas_has_one_everywhere():
    generator = torch.Generator().manual_seed(2)
    numbers = torch.tensor([1] * 20 + [8] * 10)
    n, high_A = 800, radial_range_A(SKEWED[None])
    x = torch.rand(n, 30, 3, generator=generator, dtype=torch.float64) @ SKEWED
    counter = RadialCounter(numbers, high_A)
    counts = counter(x, SKEWED.expand(n, 3, 3))
    assert radial_labels(counter.pairs) == ("H-H", "H-O", "O-O")
    assert counts.sum(-1).unique(dim=0).tolist() == [[190, 200, 45]]
    total = counts.sum(0)
    g = radial_distribution(total, high_A, float(torch.linalg.det(SKEWED)))
    # Two pairs of one frame are independent: the counts of a tenth of the range scatter by root n.
    found = total[:, :-1].unflatten(-1, (10, -1)).sum(-1)
    expected = torch.where(g > 0, total[:, :-1] / g, 0.0).unflatten(-1, (10, -1)).sum(-1)[:, 3:]
    off = (found[:, 3:] - expected) / expected.sqrt()
    assert float(expected.min()) > 300
    assert float(off.abs().max()) < 4.0


def test_lattice_has_its_shells():
    x, side_A = copper(3)
    cell = side_A * torch.eye(3, dtype=torch.float64)[None]
    high_A = radial_range_A(cell)
    assert high_A == pytest.approx(side_A / 2)
    # Any atom may stand in any image.
    x = x + side_A * torch.randint(-2, 3, x.shape, generator=torch.Generator().manual_seed(3))
    numbers = torch.full((108,), 29)
    counts = RadialCounter(numbers, high_A)(x[None], cell)[0, 0]
    filled = counts[:-1].nonzero()[:, 0]
    shells = 3.63 * torch.tensor([0.5, 1.0, 1.5, 2.0]).sqrt()
    assert filled.tolist() == (shells / high_A * RADIAL_BINS).long().tolist()
    # Each pair is counted once: 108 atoms with 12, 6, 24 and 12 neighbours.
    assert counts[filled].tolist() == [54 * 12, 54 * 6, 54 * 24, 54 * 12]
    g = radial_distribution(counts, high_A, side_A**3)
    edges = torch.linspace(0, high_A, RADIAL_BINS + 1, dtype=torch.float64)
    shells_A3 = 4 / 3 * torch.pi * edges.pow(3).diff()
    # Integrated over a shell g gives the neighbours that other atoms of this density make.
    neighbours = g * shells_A3 * 107 / side_A**3
    assert neighbours[filled].tolist() == pytest.approx([12, 6, 24, 12])


def test_single_atoms_make_no_pairs_with_themselves():
    assert element_pairs(torch.tensor([8, 1, 1])).tolist() == [[1, 1], [1, 8]]
    with pytest.raises(ValueError, match="two atoms"):
        RadialCounter(torch.tensor([8]), 3.0)


def shaken(n_replicas, n_frames, seed, spread=0.1):
    x, side_A = copper(2)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_replicas, n_frames, 32, 3, generator=generator, dtype=torch.float64)
    cell = side_A * torch.eye(3, dtype=torch.float64).expand(n_replicas, 3, 3)
    return x + spread * noise, cell


CRYSTAL = Molecule.from_numbers([29] * 32, pbc=PERIODIC)


def test_statistics_of_a_crystal_hold_against_their_own_kind_only():
    x, cell = shaken(12, 20, 4)
    reference = trajectory_statistics(CRYSTAL, x, frame_interval_fs=20.0, cell=cell)
    assert "pair_counts" not in reference
    assert reference["radial_counts"].shape == (12, 1, RADIAL_BINS + 1)
    assert float(reference["volume_A3"]) == pytest.approx(7.26**3)
    results = {}
    for name, spread in (("same", 0.1), ("hotter", 0.13)):
        x, cell = shaken(2, 40, 5, spread)
        bins = bins_for(reference, CRYSTAL, cell)
        assert bins.radial_high_A == pytest.approx(3.63)
        run = trajectory_statistics(
            CRYSTAL, x, frame_interval_fs=20.0, bins=bins, cell=cell, blocks_per_replica=8
        )
        found = compare(run, reference, CRYSTAL, torch.Generator().manual_seed(6))
        assert [d.label for d in found.radial] == ["Cu-Cu"]
        assert found.pairs is None
        assert found.radial_mean.value == pytest.approx(found.radial[0].value)
        results[name] = found.radial_mean.ratio
    assert results["same"] < 2.0
    assert results["hotter"] > 4.0


def test_difference_is_the_mean_over_bins():
    first, second = torch.zeros(2, RADIAL_BINS + 1), torch.zeros(2, RADIAL_BINS + 1)
    first[:, -1] = second[:, -1] = 8.0
    first[0, 100], second[0, 101] = 2.0, 2.0
    first[1, 100] = second[1, 100] = 2.0
    high_A, volume_A3 = 4.0, 1000.0
    found = RadialDifference(high_A, volume_A3)(first, second)
    width = high_A / RADIAL_BINS
    shells = [4 / 3 * torch.pi * width**3 * ((k + 1) ** 3 - k**3) for k in (100, 101)]
    expected = sum(0.2 * volume_A3 / shell for shell in shells) / RADIAL_BINS
    assert found.tolist() == pytest.approx([expected, 0.0])
    mean = RadialDifference(high_A, volume_A3, mean=True)(first, second)
    assert float(mean) == pytest.approx(expected / 2)


def test_frames_that_are_not_finite_count_nothing():
    x, cell = shaken(2, 6, 7)
    x[1, 3:] = float("nan")
    found = trajectory_statistics(CRYSTAL, x, frame_interval_fs=20.0, cell=cell)
    pairs = 32 * 31 // 2
    assert found["radial_counts"].sum((1, 2)).tolist() == [6 * pairs, 3 * pairs]


def test_other_cells_are_refused():
    x, cell = shaken(2, 5, 8)
    reference = trajectory_statistics(CRYSTAL, x, frame_interval_fs=20.0, cell=cell)
    with pytest.raises(ValueError, match=r"made in a cell of 382\.7 Å"):
        bins_for(reference, CRYSTAL, 1.01 * cell)
    thin = cell.clone()
    thin[:, 0] /= 1.5
    thin[:, 1] *= 1.5
    with pytest.raises(ValueError, match=r"only to 2\.42 Å"):
        bins_for(reference, CRYSTAL, thin)
    alone = Molecule.from_numbers([29] * 32)
    with pytest.raises(ValueError, match="the reference is of a periodic cell"):
        bins_for(reference, alone)


def test_bonds_through_the_faces_have_their_length():
    water = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)], pbc=PERIODIC)
    x = torch.tensor([[[[0.1, 0, 0], [9.2, 0, 0], [0.1, 0.95, 0]]]], dtype=torch.float64)
    cell = 10.0 * torch.eye(3, dtype=torch.float64)[None]
    found = trajectory_statistics(water, x, frame_interval_fs=1.0, cell=cell)
    assert found["bond_mean_A"].tolist() == pytest.approx([0.9, 0.95])
    assert int(found["angle_counts"][0, 0].argmax()) == 30  # a right angle
