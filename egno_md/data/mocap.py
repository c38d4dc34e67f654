"""Human motion: clips of a skeleton's joints, and the starts of the MoCap benchmark in them.

The file `cmu_run09_motion_run.npz` has subject 09 of the CMU motion capture database, running:
11 clips of 31 joints as the published EGNO benchmark uses them. Lengths are in the unit of the
database's skeleton files, times in frames (120 per second).

| key | content |
|---|---|
| `x0`, `x1`, ... | `(n_frames, 31, 3)` joints of a clip; the second component is the height |
| `edges` | `(30, 2)` bones |
| `train_1`, `val_0`, `test_3`, ... | starts in the clip of that number, in the published order |

A split takes the first starts of each of its clips: 40 for training, all 80 for validation and
test, which makes the published 200, 240 and 240. No clip is in two splits.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

FILE_NAME: Final = "cmu_run09_motion_run.npz"
#: Our names of the splits, the file's, and how many starts of each clip are taken.
SPLITS: Final[Mapping[str, tuple[str, int]]] = {
    "training": ("train", 40),
    "validation": ("val", 80),
    "test": ("test", 80),
}


@dataclass(frozen=True, slots=True, eq=False)
class MotionClips:
    """Clips of one skeleton.

    Attributes:
        clips: `(n_frames, n_joints, 3)` float32 each.
        bones: `(n_bones, 2)` int64 pairs of joints.
        starts: for each split, clip numbers with the starts in them, int64.
    """

    clips: tuple[Tensor, ...]
    bones: Tensor
    starts: Mapping[str, Mapping[int, Tensor]]

    def __post_init__(self) -> None:
        """Check shapes and numbers.

        Raises:
            ValueError: naming what is wrong.
        """
        if not self.clips:
            raise ValueError("there are no clips")
        joints = self.clips[0].shape[1] if self.clips[0].ndim == 3 else 0
        for number, clip in enumerate(self.clips):
            if clip.ndim != 3 or tuple(clip.shape[1:]) != (joints, 3) or clip.numel() == 0:
                raise ValueError(
                    f"clip {number} must be (n_frames, {joints}, 3), got {tuple(clip.shape)}"
                )
            if not bool(torch.isfinite(clip).all()):
                raise ValueError(f"clip {number} has numbers that are not finite")
        if self.bones.ndim != 2 or self.bones.shape[1] != 2 or not len(self.bones):
            raise ValueError(f"bones must be (n_bones, 2), got {tuple(self.bones.shape)}")
        if not 0 <= int(self.bones.min()) <= int(self.bones.max()) < joints:
            raise ValueError(f"bones name joints outside 0..{joints - 1}")
        for split, starts in self.starts.items():
            for clip_number in starts:
                if not 0 <= clip_number < len(self.clips):
                    raise ValueError(
                        f"the {split} split names clip {clip_number}, there are {len(self.clips)}"
                    )

    @property
    def n_joints(self) -> int:
        """Joints of the skeleton."""
        return self.clips[0].shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class MotionWindows:
    """Starts with what comes after them.

    Attributes:
        positions: `(n, n_joints, 3)`.
        velocities: `(n, n_joints, 3)` difference to the next frame, per frame.
        targets: `(n, n_offsets, n_joints, 3)` later positions.
    """

    positions: Tensor
    velocities: Tensor
    targets: Tensor


def find_mocap_file(data: str | Path) -> Path:
    """Find the file: itself, in the folder, or in the folder's `mocap`.

    Args:
        data: file or folder.

    Raises:
        FileNotFoundError: saying where it was looked for.
    """
    given = Path(data)
    places = (given, given / FILE_NAME, given / "mocap" / FILE_NAME)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"no motion capture data at {', '.join(map(str, places))}; give the file or its folder"
    )


def read_mocap(path: str | Path) -> MotionClips:
    """Read clips, bones and starts.

    Args:
        path: an npz file of the layout above.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            n_clips = sum(name[:1] == "x" and name[1:].isdigit() for name in file.files)
            clips = tuple(
                torch.from_numpy(np.asarray(file[f"x{k}"], dtype=np.float32))
                for k in range(n_clips)
            )
            bones = torch.from_numpy(np.asarray(file["edges"], dtype=np.int64))
            starts = {
                split: {
                    int(name[len(word) + 1 :]): torch.from_numpy(file[name].astype(np.int64))
                    for name in file.files
                    if name.startswith(f"{word}_")
                }
                for split, (word, _) in SPLITS.items()
            }
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, EOFError, AttributeError) as error:
        raise ValueError(f"{path} is not a file of motion clips: {error}") from error
    missing = [word for split, (word, _) in SPLITS.items() if not starts[split]]
    if missing:
        raise ValueError(f"{path} has no starts for {', '.join(missing)}")
    try:
        return MotionClips(clips, bones, starts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def motion_windows(motion: MotionClips, split: str, offsets: Sequence[int]) -> MotionWindows:
    """Starts of a split, with the frames some offsets later.

    Args:
        motion: the clips.
        split: "training", "validation" or "test".
        offsets: frames after the start, positive.

    Raises:
        ValueError: if the split is not known, or a clip is too short.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if not offsets or min(offsets) < 1:
        raise ValueError(f"offsets must be positive, got {list(offsets)}")
    later = torch.tensor(list(offsets))
    last = max(1, int(later.max()))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for number, all_starts in motion.starts[split].items():
        clip, starts = motion.clips[number], all_starts[: SPLITS[split][1]]
        if int(starts.min()) < 0 or int(starts.max()) + last >= len(clip):
            raise ValueError(
                f"clip {number} has {len(clip)} frames: its starts {int(starts.min())} to "
                f"{int(starts.max())} leave no room for {last} frames more"
            )
        here = clip[starts]
        parts.append((here, clip[starts + 1] - here, clip[starts[:, None] + later]))
    return MotionWindows(*(torch.cat(part) for part in zip(*parts, strict=True)))


def bone_graph(bones: Tensor, n_joints: int) -> tuple[Tensor, Tensor]:
    """Pairs of joints one or two bones apart.

    Args:
        bones: `(n_bones, 2)` int64.
        n_joints: joints of the skeleton.

    Returns:
        `(2, n_edges)` int64 receivers and senders, both directions, by receiver; and the number
        of bones between them, `(n_edges,)` int64.
    """
    near = torch.zeros(n_joints, n_joints, dtype=torch.int64)
    near[bones[:, 0], bones[:, 1]] = near[bones[:, 1], bones[:, 0]] = 1
    apart = torch.where(near > 0, 1, torch.where(near @ near > 0, 2, 0)).fill_diagonal_(0)
    edges = apart.nonzero().T.contiguous()
    return edges, apart[edges[0], edges[1]]


def joint_kinds(bones: Tensor, n_joints: int) -> Tensor:
    """Number joints so that those in the same place of the skeleton, left and right, share one.

    Joints start alike and are told apart by the kinds of their neighbours until nothing changes.

    Args:
        bones: `(n_bones, 2)` int64.
        n_joints: joints of the skeleton.

    Returns:
        `(n_joints,)` int64, from 0 without gaps.
    """
    neighbours: list[list[int]] = [[] for _ in range(n_joints)]
    for one, other in bones.tolist():
        neighbours[one].append(other)
        neighbours[other].append(one)
    kinds = [0] * n_joints
    while True:
        seen = [(kinds[j], sorted(kinds[k] for k in neighbours[j])) for j in range(n_joints)]
        order = sorted({repr(one) for one in seen})
        finer = [order.index(repr(one)) for one in seen]
        if len(set(finer)) == len(set(kinds)):
            return torch.tensor(finer)
        kinds = finer


def mirror_twins(kinds: Tensor) -> Tensor:
    """For each joint its twin on the other side; itself where there is none.

    Args:
        kinds: `(n_joints,)` what `joint_kinds` returns.

    Returns:
        `(n_joints,)` int64.

    Raises:
        ValueError: if more than two joints share a place.
    """
    twins = torch.arange(len(kinds))
    for kind in kinds.unique().tolist():  # type: ignore[no-untyped-call]
        joints = (kinds == kind).nonzero()[:, 0]
        if len(joints) > 2:
            raise ValueError(f"joints {joints.tolist()} share a place, twins are two")
        twins[joints] = joints.flip(0)
    return twins
