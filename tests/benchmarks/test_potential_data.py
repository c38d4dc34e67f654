"""Data sets of potentials: nothing stands in two sets, and every set is cut as it says."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from egno_md.benchmarks.decorrelated_split import closest, frame_distances, split_by_distance
from egno_md.benchmarks.potential_data import (
    PotentialTask,
    data_sets,
    distinct,
    frame_keys,
    potential_task,
    spared,
)
from egno_md.data.frame_files import load_frames
from egno_md.units import GPA, KCAL_PER_MOL
from tests.benchmarks.potential_files import make_folder, molecule, wandering_water

NAMES = [
    "rmd17-ethanol",
    "ccsdt-ethanol",
    "acac-300K",
    "3bpa",
    "water",
    "mlearn-Li",
    "mlearn-Si",
    "mlearn-Mo",
    "oc20",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", NAMES)
def test_sets_share_no_frame_and_stay_the_same(folder, name):
    task, again = potential_task(folder, name), potential_task(folder, name)
    assert task.training.sha256() == again.training.sha256()
    parts = [task.training, task.validation, *task.tests.values()]
    keys = [key for part in parts for key in frame_keys(part)]
    assert len(set(keys)) == len(keys)
    assert all(str(part.n_frames) in task.split for part in parts)


def test_sizes_units_and_stresses(folder):
    rmd17 = potential_task(folder, "rmd17-ethanol")
    assert (rmd17.training.n_frames, rmd17.validation.n_frames) == (10, 50)
    assert rmd17.tests["test"].n_frames == 6
    assert "recalled, not read" in rmd17.notes[0]
    acac = potential_task(folder, "acac-300K")
    assert {name: t.n_frames for name, t in acac.tests.items()} == {"300 K": 5, "600 K": 7}
    frames = potential_task(folder, "ccsdt-ethanol").training
    raw = np.load(folder / "md17/ethanol_ccsd_t_train1000.npz")["E"] * KCAL_PER_MOL
    assert all(np.isclose(raw, float(e), rtol=1e-12).any() for e in frames.energies)
    silicon = potential_task(folder, "mlearn-Si").tests["test"]
    virial = np.load(folder / "bulk/mlearn_Si_test.npz")["virial_stress"]
    np.testing.assert_allclose(silicon.stress[:, 0, 2], -0.1 * GPA * virial[:, 5], rtol=1e-12)


def test_frames_of_two_files_count_once(folder):
    task = potential_task(folder, "3bpa")
    assert sum(p.n_frames for p in (task.training, task.validation, task.tests["test"])) == 46
    assert "4 frames stand in both" in task.split


def test_training_frames_that_are_test_frames_are_left_out(tmp_path):
    make_folder(tmp_path)
    shared = molecule(tmp_path / "md17/rmd17_ethanol_test1000.npz", 6, 1)
    molecule(tmp_path / "md17/rmd17_ethanol_train1000.npz", 60, 0, first=shared[:2])
    task = potential_task(tmp_path, "rmd17-ethanol")
    assert task.training.n_frames == 8
    assert "2 training frames that are test frames too left out" in task.split


def test_a_frame_in_two_sets_is_refused(folder):
    task = potential_task(folder, "rmd17-ethanol")
    with pytest.raises(ValueError, match="6 frames stand in both the training and the test set"):
        PotentialTask("toy", task.tests["test"], task.validation, task.tests, "")
    doubled = task.validation.select([1, 0, 1, 2, 0])
    assert torch.equal(distinct(doubled).energies, task.validation.energies[[1, 0, 2]])


def test_relaxations_stay_whole_and_their_elements_are_known(folder):
    task = potential_task(folder, "oc20")
    sizes = [p.n_frames for p in (task.training, task.validation, task.tests["test"])]
    assert all(size % 4 == 0 for size in sizes)
    assert set(task.tests["test"].elements) | set(task.validation.elements) <= set(
        task.training.elements
    )
    assert 78 in task.training.elements
    with pytest.raises(ValueError, match="fewer than two relaxations"):
        spared(torch.arange(3), {0: {1}, 1: {6}, 2: {8}})


def test_shuffled_trajectory_is_cut_in_time(tmp_path):
    order = torch.from_numpy(wandering_water(tmp_path / "w.npz"))
    positions = load_frames(tmp_path / "w.npz").dense().positions[:, ::3]
    distances = frame_distances(positions, torch.full((3,), 8.0, dtype=torch.float64))
    split = split_by_distance(distances, 0.2, 0.2, gap=3)
    times = [order[part] for part in (split.training, split.validation, split.test)]
    if times[0].min() > times[2].max():
        times = [59 - t for t in times]
    assert [len(t) for t in times] == [30, 12, 12]
    assert times[0].max() < times[1].min() - 2
    assert times[1].max() < times[2].min() - 2
    # Fifteen times left out or in validation, 0.05 Å each along all three axes.
    assert closest(distances, split.training, split.test) > 15 * 0.05 * 3**0.5
    # Nearest images: half a cell is as far as anything gets.
    assert float(distances.max()) < 4.0 * 3**0.5


def test_missing_data_is_named(folder, tmp_path):
    assert data_sets(folder, ()) == NAMES
    assert data_sets(folder, ("water",)) == ["water"]
    with pytest.raises(ValueError, match="no data sets"):
        data_sets(folder, ("benzene",))
    with pytest.raises(FileNotFoundError, match="no folder"):
        data_sets(tmp_path / "absent", ())
    with pytest.raises(FileNotFoundError, match="water needs the file"):
        data_sets(tmp_path, ("water",))
    with pytest.raises(FileNotFoundError, match="none of the data sets"):
        data_sets(tmp_path, ())


def test_the_published_files():
    given = os.environ.get("EGNO_MD_DATA")
    if not given:
        pytest.skip("EGNO_MD_DATA is not set; it names the folder of the published frames")
    sizes = {}
    for name in ("rmd17-ethanol", "acac-300K", "3bpa", "water", "mlearn-Mo"):
        task = potential_task(Path(given), name)
        tests = [t.n_frames for t in task.tests.values()]
        sizes[name] = (task.training.n_frames, task.validation.n_frames, *tests)
    assert sizes["rmd17-ethanol"] == (950, 50, 1000)
    assert sizes["acac-300K"] == (450, 50, 650, 650)
    assert sum(sizes["3bpa"]) == 969
    assert sizes["water"] == (260, 40, 60)
    assert sum(sizes["mlearn-Mo"]) <= 194 + 23
