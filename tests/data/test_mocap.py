from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from egno_md.data.mocap import (
    SPLITS,
    bone_graph,
    find_mocap_file,
    joint_kinds,
    mirror_twins,
    motion_windows,
    read_mocap,
)


@pytest.fixture
def fields():
    """A made-up file: three clips of a chain of four joints, one clip per split."""
    rng = np.random.default_rng(3)
    clips = {f"x{k}": rng.normal(size=(20 + k, 4, 3)) for k in range(3)}
    starts = {"train_2": np.array([5, 0]), "val_0": np.array([3]), "test_1": np.array([1, 14, 2])}
    bones = np.array([[1, 0], [2, 1], [3, 2]])
    return clips | {k: v.astype(np.int32) for k, v in starts.items()} | {"edges": bones}


@pytest.fixture
def write(tmp_path):
    def written(fields):
        np.savez(tmp_path / "clips.npz", **fields)
        return tmp_path / "clips.npz"

    return written


def test_windows_are_frames_of_the_right_clip(fields, write):
    motion = read_mocap(write(fields))
    windows = motion_windows(motion, "training", (2, 6))
    x = torch.from_numpy(fields["x2"]).float()
    torch.testing.assert_close(windows.positions, x[[5, 0]])
    torch.testing.assert_close(windows.velocities, x[[6, 1]] - x[[5, 0]])
    torch.testing.assert_close(windows.targets, torch.stack((x[[7, 2]], x[[11, 6]]), 1))


def test_a_split_takes_the_first_starts_in_the_files_order(fields, write):
    order = np.random.default_rng(1).permutation(60)
    fields |= {"x2": np.zeros((80, 4, 3)), "train_2": order}
    fields["x2"][:, 0, 0] = np.arange(80)
    windows = motion_windows(read_mocap(write(fields)), "training", (1,))
    assert windows.positions[:, 0, 0].tolist() == order[:40].tolist()


def test_the_graph_joins_one_and_two_bones():
    edges, apart = bone_graph(torch.tensor([[1, 0], [2, 1], [3, 2]]), 4)
    found = {(int(i), int(j)): int(n) for (i, j), n in zip(edges.T, apart, strict=True)}
    one = {(0, 1), (1, 2), (2, 3)}
    two = {(0, 2), (1, 3)}
    expected = {pair: 1 for pair in one} | {pair: 2 for pair in two}
    assert found == expected | {(j, i): n for (i, j), n in expected.items()}


def test_left_and_right_joints_are_of_one_kind():
    # A hip with two legs of two joints, and a spine with a head.
    bones = torch.tensor([[1, 0], [2, 1], [3, 0], [4, 3], [5, 0], [6, 5], [7, 6]])
    kinds = joint_kinds(bones, 8)
    assert kinds[[1, 2]].tolist() == kinds[[3, 4]].tolist()
    assert len(set(kinds.tolist())) == 6
    assert mirror_twins(kinds).tolist() == [0, 3, 4, 1, 2, 5, 6, 7]
    with pytest.raises(ValueError, match="share a place"):
        mirror_twins(joint_kinds(torch.tensor([[0, 1], [0, 2], [0, 3]]), 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x1": np.zeros((9, 3, 3))}, "clip 1 must be"),
        ({"x1": np.full((20, 4, 3), np.nan)}, "clip 1 has numbers that are not finite"),
        ({"edges": np.array([[0, 7]])}, "bones name joints outside 0..3"),
        ({"edges": np.array([["a", "b"]])}, "not a file of motion clips"),
        ({"train_9": np.array([0])}, "names clip 9"),
        ({"x0": np.array([{}], dtype=object)}, "not a file of motion clips"),
    ],
)
def test_a_wrong_file_is_refused(fields, write, change, message):
    with pytest.raises(ValueError, match=message):
        read_mocap(write(fields | change))


def test_missing_parts_are_named(fields, write):
    del fields["val_0"]
    with pytest.raises(ValueError, match="no starts for val"):
        read_mocap(write(fields))
    del fields["edges"]
    with pytest.raises(ValueError, match="edges"):
        read_mocap(write(fields))


def test_windows_say_what_does_not_fit(fields, write):
    motion = read_mocap(write(fields))
    with pytest.raises(ValueError, match="clip 1 has 21 frames"):
        motion_windows(motion, "test", (2, 7))
    assert len(motion_windows(motion, "test", (6,)).positions) == 3
    with pytest.raises(ValueError, match="no split 'val'"):
        motion_windows(motion, "val", (2,))
    with pytest.raises(ValueError, match="offsets must be positive"):
        motion_windows(motion, "test", (0, 2))


def test_the_file_is_found_in_a_folder_or_said_to_be_missing(fields, write, tmp_path):
    with pytest.raises(FileNotFoundError, match="no motion capture data at"):
        find_mocap_file(tmp_path)
    file = write(fields)
    assert find_mocap_file(file) == file
    (tmp_path / "mocap").mkdir()
    placed = file.rename(tmp_path / "mocap" / "cmu_run09_motion_run.npz")
    assert find_mocap_file(tmp_path) == placed


def test_the_published_data_has_the_published_numbers():
    folder = os.environ.get("EGNO_MD_DATA")
    if not folder:
        pytest.skip("set EGNO_MD_DATA to the data folder to run this test")
    motion = read_mocap(find_mocap_file(Path(folder)))
    sizes = {s: len(motion_windows(motion, s, range(26, 31)).positions) for s in SPLITS}
    assert sizes == {"training": 200, "validation": 240, "test": 240}
    clips = [set(motion.starts[s]) for s in SPLITS]
    assert sum(map(len, clips)) == len(set().union(*clips)) == len(motion.clips) == 11
    edges, _ = bone_graph(motion.bones, motion.n_joints)
    assert edges.shape == (2, 130)
    # Bones are rigid: joints are in the order the bones say.
    one, other = motion.clips[4][:, motion.bones].unbind(2)
    assert (one - other).norm(dim=-1).std(0).max() < 1e-4
