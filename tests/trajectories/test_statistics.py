import math

import numpy as np
import pytest
import torch

from egno_md.state import Molecule, maxwell_boltzmann
from egno_md.trajectories.bond_classes import internal_coordinates
from egno_md.trajectories.comparison import (
    bins_for,
    compare,
    reference_bond_means,
    temperature_mismatch,
)
from egno_md.trajectories.histograms import (
    BOND_BINS,
    Bins,
    angle_values,
    bond_lengths,
    torsion_values,
)
from egno_md.trajectories.inefficiency import statistical_inefficiency
from egno_md.trajectories.statistics import (
    StatisticsCounter,
    atom_freedom,
    trajectory_statistics,
)

ETHANOL_NUMBERS = [6, 6, 8, 1, 1, 1, 1, 1, 1]
ETHANOL_BONDS = [(0, 1), (1, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (2, 8)]


@pytest.fixture
def ethanol():
    return Molecule.from_numbers(ETHANOL_NUMBERS, bonds=ETHANOL_BONDS)


def shaken(molecule, n_replicas, n_frames, seed, spread=0.03):
    generator = torch.Generator().manual_seed(99)
    centre = 1.5 * torch.randn(molecule.n_atoms, 3, generator=generator, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    shape = (n_replicas, n_frames, molecule.n_atoms, 3)
    return centre + spread * torch.randn(shape, generator=generator, dtype=torch.float64)


def reordered(molecule, order):
    place = {old: new for new, old in enumerate(order)}
    bonds = sorted(tuple(sorted((place[i], place[j]))) for i, j in molecule.bonds.tolist())
    return Molecule.from_numbers(molecule.numbers[order], bonds=bonds)


def test_every_frame_is_counted_once(ethanol):
    x = shaken(ethanol, 3, 50, 0)
    found = trajectory_statistics(ethanol, x, frame_interval_fs=2.0, blocks_per_replica=4)
    assert found["block_frames"].tolist() == [13, 12, 13, 12] * 3
    per_bond = found["bond_counts"].sum(-1)
    assert torch.equal(per_bond, found["block_frames"][:, None].expand(-1, 8))
    assert torch.equal(found["pair_counts"].sum(-1), 36 * found["block_frames"])
    assert int(found["torsion_counts"].sum()) == 150 * 12
    assert int(found["angle_counts"].sum()) == 150 * 13


def test_bond_statistics_are_those_of_the_lengths(ethanol):
    x = shaken(ethanol, 2, 40, 1)
    lengths = bond_lengths(x, ethanol.bonds).reshape(-1, 8)
    found = trajectory_statistics(ethanol, x, frame_interval_fs=2.0)
    torch.testing.assert_close(found["bond_mean_A"], lengths.mean(0))
    torch.testing.assert_close(found["bond_std_A"], lengths.std(0, correction=0))
    assert torch.equal(found["bond_min_A"], lengths.amin(0))
    assert torch.equal(found["bond_max_A"], lengths.amax(0))


def test_pair_histogram_is_the_published_one(ethanol):
    x = shaken(ethanol, 1, 20, 2)
    found = trajectory_statistics(ethanol, x, frame_interval_fs=2.0)
    distances = torch.cdist(x[0], x[0]).numpy().ravel()
    full, _ = np.histogram(distances[distances > 1e-5], np.linspace(1e-6, 10.0, 501))
    assert found["pair_counts"][0].tolist() == (full // 2).tolist()


def test_lengths_beyond_the_range_go_to_the_end_bins():
    pair = Molecule.from_numbers([1, 1], bonds=[(0, 1)])
    x = torch.zeros(1, 3, 2, 3, dtype=torch.float64)
    x[0, :, 1, 0] = torch.tensor([0.1, 1.0, 9.0])
    bins = Bins(internal_coordinates(pair), torch.tensor([0.7], dtype=torch.float64))
    found = trajectory_statistics(pair, x, frame_interval_fs=1.0, bins=bins)
    counts = found["bond_counts"][0, 0]
    assert (int(counts[0]), int(counts[30]), int(counts[BOND_BINS - 1])) == (1, 1, 1)


def test_frames_in_pieces_give_the_same_counts(ethanol):
    x = shaken(ethanol, 4, 60, 3)
    v = 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4)).double()
    bins = Bins.around(ethanol, x)
    whole = trajectory_statistics(ethanol, x, v, frame_interval_fs=2.0, bins=bins)
    counter = StatisticsCounter(ethanol, bins, n_replicas=4, n_frames=60, frame_interval_fs=2.0)
    for start, stop in ((0, 1), (1, 34), (34, 60)):
        counter.add(x[:, start:stop], v[:, start:stop])
    pieces = counter.result()
    assert whole.keys() == pieces.keys()
    for key, value in whole.items():
        torch.testing.assert_close(pieces[key], value)


def test_more_frames_than_announced_are_refused(ethanol):
    x = shaken(ethanol, 1, 3, 0)
    counter = StatisticsCounter(
        ethanol, Bins.around(ethanol, x), n_replicas=1, n_frames=2, frame_interval_fs=1.0
    )
    with pytest.raises(ValueError, match="2 frames per replica were announced, but 3"):
        counter.add(x)


def test_frames_that_are_not_finite_are_left_out_and_said(ethanol):
    x = shaken(ethanol, 2, 10, 5)
    x[1, 4, 3, 0] = float("nan")
    found = trajectory_statistics(ethanol, x, frame_interval_fs=2.0)
    assert int(found["n_bad_frames"]) == 1
    assert int(found["block_frames"].sum()) == 19
    assert all(bool(torch.isfinite(v).all()) for v in found.values() if v.is_floating_point())
    with pytest.raises(ValueError, match="no finite frame"):
        trajectory_statistics(ethanol, x * float("nan"), frame_interval_fs=2.0)


def test_maxwell_velocities_have_the_same_temperature_in_every_element(ethanol):
    n, kelvin = 4000, 300.0
    v = maxwell_boltzmann(ethanol, n, kelvin, torch.Generator().manual_seed(6))[None]
    x = shaken(ethanol, 1, n, 7)
    found = trajectory_statistics(ethanol, x, v, frame_interval_fs=1.0)
    assert found["elements"].tolist() == [1, 6, 8]
    for mean, freedom in zip(found["element_temperature_mean_K"], (18, 6, 3), strict=True):
        assert float(mean) == pytest.approx(kelvin, abs=4 * kelvin * math.sqrt(2 / freedom / n))
    # The spread of the kinetic temperature is T sqrt(2 / f).
    assert float(found["temperature_std_K"]) == pytest.approx(kelvin * (2 / 27) ** 0.5, rel=0.05)


def test_without_drift_every_element_still_reads_the_temperature():
    # A heavy atom in a light molecule loses most of its motion with the centre of mass.
    molecule = Molecule.from_numbers([53, 1, 1], bonds=[(0, 1), (0, 2)])
    n, kelvin = 20_000, 250.0
    v = maxwell_boltzmann(molecule, n, kelvin, torch.Generator().manual_seed(8))
    masses = molecule.masses[:, None]
    v = (v - (masses * v).sum(1, keepdim=True) / masses.sum())[None]
    x = shaken(molecule, 1, n, 9)
    found = trajectory_statistics(molecule, x, v, frame_interval_fs=1.0, degrees_of_freedom=6)
    torch.testing.assert_close(
        found["element_temperature_mean_K"],
        torch.full((2,), kelvin, dtype=torch.float64),
        rtol=0.03,
        atol=0.0,
    )
    assert float(atom_freedom(molecule, 6).sum()) == pytest.approx(6.0)
    with pytest.raises(ValueError, match="between 1 and 9"):
        atom_freedom(molecule, 10)


def test_inefficiency_of_a_known_process():
    # x' = a x + noise has correlations a^t: g = (1 + a) / (1 - a).
    generator = torch.Generator().manual_seed(10)
    noise = torch.randn(8, 20_000, generator=generator, dtype=torch.float64)
    x = torch.zeros_like(noise)
    for t in range(1, x.shape[1]):
        x[:, t] = 0.9 * x[:, t - 1] + noise[:, t]
    assert float(statistical_inefficiency(x)) == pytest.approx(19.0, rel=0.15)
    assert float(statistical_inefficiency(noise)) == pytest.approx(1.0, abs=0.1)
    assert float(statistical_inefficiency(torch.ones(2, 10))) == 1.0


def test_angles_and_torsions_are_exact():
    x = torch.tensor(
        [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64
    )
    assert float(angle_values(x, torch.tensor([[0, 1, 2]]))) == pytest.approx(math.pi / 2)
    chain = torch.tensor([[0, 1, 2, 3]])
    for turn in (-120.0, -90.0, 0.0, 60.0, 180.0):
        # Looking along the middle bond (y), a clockwise turn of the far bond is positive.
        angle = math.radians(turn)
        x[3] = torch.tensor([math.cos(angle), 1.0, -math.sin(angle)], dtype=torch.float64)
        found = math.degrees(float(torsion_values(x, chain)))
        assert (found - turn + 180.0) % 360.0 - 180.0 == pytest.approx(0.0, abs=1e-9)


def test_alike_bonds_are_found(ethanol):
    coordinates = internal_coordinates(ethanol)
    classes = coordinates.bond_class.tolist()
    assert len(set(classes)) == 5
    assert classes[2] == classes[3] == classes[4]
    assert classes[5] == classes[6] != classes[2]
    assert sorted(coordinates.bond_labels) == [
        "C-C",
        "C-H 1 (3 alike)",
        "C-H 2 (2 alike)",
        "C-O",
        "O-H",
    ]


def test_reference_serves_another_order_of_the_atoms(ethanol):
    x = shaken(ethanol, 8, 100, 11)
    reference = trajectory_statistics(ethanol, x, frame_interval_fs=2.0)
    order = [8, 3, 1, 0, 6, 2, 4, 7, 5]
    other = reordered(ethanol, order)
    means = reference_bond_means(reference, other)
    per_class = {k: reference["bond_mean_A"][reference["bond_class"] == k].mean() for k in range(5)}
    classes = internal_coordinates(other).bond_class.tolist()
    assert means.tolist() == pytest.approx([float(per_class[k]) for k in classes])
    bins = bins_for(reference, other)
    run = trajectory_statistics(other, x[:, :, order], frame_interval_fs=2.0, bins=bins)
    found = compare(run, reference, other, torch.Generator().manual_seed(0))
    assert not found.same_order
    # The very same frames: every class must agree to the last count.
    assert [d.value for d in found.bonds] == [0.0] * 5
    assert found.pairs is not None
    assert found.pairs.value == 0.0


def test_same_order_keeps_each_bond_its_own_mean(ethanol):
    reference = trajectory_statistics(ethanol, shaken(ethanol, 2, 9, 12), frame_interval_fs=2.0)
    assert torch.equal(reference_bond_means(reference, ethanol), reference["bond_mean_A"])


def test_reference_of_another_molecule_is_refused(ethanol):
    reference = trajectory_statistics(ethanol, shaken(ethanol, 2, 9, 13), frame_interval_fs=2.0)
    ether = [(0, 2), (1, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (1, 8)]
    isomer = Molecule.from_numbers(ETHANOL_NUMBERS, bonds=ether)
    with pytest.raises(ValueError, match="another molecule"):
        reference_bond_means(reference, isomer)
    with pytest.raises(ValueError, match="lack bond_mean_A"):
        reference_bond_means({k: v for k, v in reference.items() if k != "bond_mean_A"}, ethanol)


def test_equal_dynamics_lie_at_the_floor_and_others_above(ethanol):
    reference = trajectory_statistics(ethanol, shaken(ethanol, 32, 200, 14), frame_interval_fs=2.0)
    bins = bins_for(reference, ethanol)

    def against(spread, seed):
        x = shaken(ethanol, 8, 200, seed, spread)
        run = trajectory_statistics(ethanol, x, frame_interval_fs=2.0, bins=bins)
        return compare(run, reference, ethanol, torch.Generator().manual_seed(1))

    same, stiff = against(0.03, 15), against(0.02, 15)
    assert same.run_blocks == pytest.approx(8.0)
    assert same.bond_mean.ratio < 1.5
    assert same.pairs.ratio < 1.5
    assert stiff.bond_mean.ratio > 5.0
    assert stiff.pairs.ratio > 2.0


def test_run_length_does_not_depend_on_the_frame_interval(ethanol):
    reference = trajectory_statistics(ethanol, shaken(ethanol, 4, 100, 16), frame_interval_fs=2.0)
    reference["bond_inefficiency_fs"] = torch.full((8,), 80.0, dtype=torch.float64)
    x = shaken(ethanol, 1, 100, 17)
    run = trajectory_statistics(
        ethanol, x, frame_interval_fs=8.0, bins=bins_for(reference, ethanol)
    )
    found = compare(run, reference, ethanol, torch.Generator().manual_seed(1))
    # 100 frames of 8 fs are four blocks of 100 frames of 2 fs.
    assert found.run_blocks == pytest.approx(4.0)


def test_temperatures_that_differ_are_not_compared():
    reference = {"temperature_K": torch.tensor(300.0, dtype=torch.float64)}
    assert temperature_mismatch(reference, 305.0) is None
    assert "300 K" in temperature_mismatch(reference, 400.0)
    assert temperature_mismatch({}, 400.0) is None
