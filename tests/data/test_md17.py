"""Original MD17 files: what is read, what is refused, and the starts of the benchmark."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from egno_md.data.md17 import (
    N_POINTS,
    N_STARTS,
    STRIDE,
    published_starts,
    random_starts,
    read_md17,
    windows_at,
)
from egno_md.units import KCAL_PER_MOL


def fields(n_frames=60):
    """A formaldehyde that drifts along x by 0.01 Å per frame."""
    rng = np.random.default_rng(0)
    shape = np.array([[0.0, 0, 0], [1.2, 0, 0], [-0.6, 0.9, 0], [-0.6, -0.9, 0]])
    x = shape + 0.002 * rng.normal(size=(n_frames, 4, 3))
    x[:, :, 0] += 0.01 * np.arange(n_frames)[:, None]
    z = np.array([6, 8, 1, 1], dtype=np.uint8)
    return {"z": z, "R": x, "E": rng.normal(size=(n_frames, 1)), "F": rng.normal(size=x.shape)}


def write(folder, **change):
    path = folder / "md17_formaldehyde.npz"
    np.savez(path, **{k: v for k, v in (fields() | change).items() if v is not None})
    return path


def test_units_shapes_and_bonds(tmp_path):
    trajectory = read_md17(write(tmp_path))
    given = fields()
    assert trajectory.molecule.numbers.tolist() == [6, 8, 1, 1]
    assert trajectory.molecule.bonds.tolist() == [[0, 1], [0, 2], [0, 3]]
    assert trajectory.n_frames == 60
    np.testing.assert_array_equal(trajectory.positions, given["R"])
    np.testing.assert_allclose(trajectory.energies, given["E"][:, 0] * KCAL_PER_MOL)
    np.testing.assert_allclose(trajectory.forces, given["F"] * KCAL_PER_MOL)


def test_energies_and_forces_may_be_missing(tmp_path):
    trajectory = read_md17(write(tmp_path, E=None, F=None))
    assert trajectory.energies is None
    assert trajectory.forces is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": None}, r"has no field R, but E, F, z"),
        ({"R": None, "coords": np.ones(3)}, "revised MD17 holds shuffled frames"),
        ({"z": np.array([6, 8])}, r"2 atoms \(z\) need \(n_frames, 2, 3\)"),
        ({"R": fields()["R"][0]}, r"R has shape \(4, 3\)"),
        ({"E": np.ones(7)}, r"7 energies \(E\) for 60 frames"),
        ({"F": np.ones((60, 3))}, r"F has shape \(60, 3\)"),
        ({"R": np.where(np.arange(60)[:, None, None] == 7, np.nan, fields()["R"])}, "frame 7 is"),
        ({"R": np.full((60, 4, 3), "x")}, "not numbers"),
        ({"R": fields()["R"][::-1][np.arange(60) * 37 % 60]}, "a sample of frames"),
        ({"z": np.array([0, 8, 1, 1])}, "atomic number 0"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_md17(write(tmp_path, **change))


def test_what_is_no_file_or_no_archive_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        read_md17(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="not a readable npz file"):
        read_md17(tmp_path / "text.npz")
    trap = np.empty(1, dtype=object)
    with pytest.raises(ValueError, match="not a readable npz file"):
        read_md17(write(tmp_path, R=trap))


def test_a_window_is_a_start_a_step_and_what_follows(tmp_path):
    trajectory = read_md17(write(tmp_path))
    windows = windows_at(trajectory, torch.tensor([3, 20]), n_points=3, stride=10)
    x = trajectory.positions
    assert torch.equal(windows.positions0, x[[3, 20]])
    assert torch.equal(windows.steps0, x[[4, 21]] - x[[3, 20]])
    assert torch.equal(windows.positions[1], x[[30, 40, 50]])
    # The drift is in the steps and in what follows.
    assert float(windows.steps0[..., 0].mean()) == pytest.approx(0.01, abs=0.003)
    moved = windows.positions[:, -1] - windows.positions0
    assert float(moved[..., 0].mean()) == pytest.approx(0.3, abs=0.003)
    with pytest.raises(ValueError, match="30 frames from frame 30 leaves the 60 frames"):
        windows_at(trajectory, torch.tensor([2, 30]), n_points=3, stride=10)


def test_heavy_atoms_keep_their_bonds(tmp_path):
    windows = windows_at(read_md17(write(tmp_path)), torch.tensor([0]), n_points=1, stride=5)
    heavy = windows.heavy()
    assert heavy.molecule.numbers.tolist() == [6, 8]
    assert heavy.molecule.bonds.tolist() == [[0, 1]]
    assert torch.equal(heavy.positions, windows.positions[:, :, :2])
    assert heavy.sha256() != windows.sha256()


def test_random_starts_are_apart_inside_and_repeatable():
    starts = random_starts(70_000, seed=3)
    assert {part: len(rows) for part, rows in starts.items()} == N_STARTS
    together = torch.cat(list(starts.values()))
    assert len(together.unique()) == len(together)
    assert int(together.min()) >= 10_000
    assert int(together.max()) < 60_000
    again = random_starts(70_000, seed=3)
    assert all(torch.equal(starts[part], again[part]) for part in starts)
    assert not torch.equal(starts["train"], random_starts(70_000, seed=4)["train"])
    with pytest.raises(ValueError, match="needs at least 60000"):
        random_starts(59_999, seed=0)


def test_published_starts_must_fit_the_trajectory(tmp_path):
    path = tmp_path / "starts.npz"
    parts = {"train": [1, 2], "val": [3], "test": [40]}
    np.savez(path, **{f"benzene_old_{k}": np.array(v, dtype=np.int32) for k, v in parts.items()})
    last = 40 + N_POINTS * STRIDE
    starts = published_starts(path, "benzene_old", last + 1)
    assert {part: rows.tolist() for part, rows in starts.items()} == parts
    with pytest.raises(ValueError, match=f"frames up to {last} of benzene_old"):
        published_starts(path, "benzene_old", last)
    with pytest.raises(ValueError, match="no starts for ethanol; it has benzene_old"):
        published_starts(path, "ethanol", 10**6)


@pytest.fixture(scope="session")
def data() -> Path:
    folder = os.environ.get("EGNO_MD_DATA")
    if not folder:
        pytest.skip("set EGNO_MD_DATA to the data folder to run this test")
    return Path(folder)


def test_shuffled_ethanol_is_no_trajectory(data):
    with pytest.raises(ValueError, match=r"frames \d+ and \d+ are .* Å apart"):
        read_md17(data / "md17" / "md17_ethanol_2000_noncontiguous.npz")


def test_published_starts_of_all_molecules(data):
    path = data / "egno_splits" / "egno_md17_splits_first500_2000_2000.npz"
    # The whole ethanol trajectory has 555,092 frames.
    starts = published_starts(path, "ethanol", 555_092)
    assert {part: len(rows) for part, rows in starts.items()} == N_STARTS
    assert len(torch.cat(list(starts.values())).unique()) == sum(N_STARTS.values())
