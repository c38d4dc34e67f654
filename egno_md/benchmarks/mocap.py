"""`egno-md benchmark mocap`: a running man, from one frame to 30 frames later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.correcting_egno import CorrectingEGNO, LineGuess
from egno_md.benchmarks.kernel_guess import KernelGuess
from egno_md.benchmarks.paper_training import PublishedEGNO, Recipe, path_errors, published_recipe
from egno_md.benchmarks.path_table import Row, measure_rows
from egno_md.benchmarks.paths import PathBatch, Paths, PathTask
from egno_md.benchmarks.table import Table
from egno_md.data.mocap import (
    SPLITS,
    MotionClips,
    bone_graph,
    find_mocap_file,
    joint_kinds,
    mirror_twins,
    motion_windows,
    read_mocap,
)
from egno_md.models.bfloat16_products import Bfloat16Products

#: Frames after the start, by table: evenly spread, or the last five.
OFFSETS: Final[Mapping[str, tuple[int, ...]]] = {
    "mocap-uniform": (6, 12, 18, 24, 30),
    "mocap-last": (26, 27, 28, 29, 30),
}
HIDDEN, LAYERS, BATCH_SIZE = 128, 6, 12
#: Passes over the training data as published here; about the processor time of ours.
EPOCHS: Final = 50
CONTROL: Final = "kernel ridge"

CAPTION: Final = (
    "MoCap-run: subject 09 of the CMU database, 31 joints, graph of one and two bones; published "
    "splits of {sizes} starts for training, validation and test, no clip in two splits. From "
    "positions and velocities (difference to the next frame) of frame t to positions of frames "
    "{offsets}. Node features: speed, height over the largest height of the training starts (a "
    "constant; published: of the batch); edge features: bones apart, squared distance. P = 5, 2 "
    "modes. As published: H = 128, 6 layers, batch 12, Adam at 5e-4, but {epochs} epochs, not up "
    "to 2000; bfloat16: linear maps rounded to that in training and test. Mean and spread over "
    "seeds {seeds}; test data at the epoch of the best validation F-MSE. "
    "F-MSE: last time; A-MSE: mean over times."
)
NOTES: Final = (
    "Ours: H = 32, 3 layers, starting from x + c v, with kind of joint (left and right the same), "
    "vertical velocity and guessed height as features; AdamW with a cosine from 1e-2, averaged "
    "weights. Like the published network with its height, it is equivariant to turns about the "
    "vertical and to mirroring.",
    "Kernel ridge: closed-form regression in the body's frame, with labelled joints and mirror "
    "images and the same symmetry; its three constants were chosen on the validation split. EGNO "
    "after kernel ridge starts from that guess; in training, the guess for a clip comes from the "
    "other clips.",
    "The paper's values, recalled, not read: EGNN F-MSE 0.509, EGNO F-MSE 0.339 (last five "
    "frames), A-MSE 0.149 (uniform).",
)

OURS: Final = Recipe(300, 10, learning_rate=1e-2, weight_decay=1e-1, ema_decay=0.99)
CORRECTION: Final = Recipe(
    30, 20, learning_rate=2e-3, weight_decay=1e-2, ema_decay=0.99, validate_every_epochs=2
)


def mocap_paths(motion: MotionClips, split: str, offsets: Sequence[int]) -> Paths:
    """One split as a task; times are frames.

    Args:
        motion: the clips.
        split: "training", "validation" or "test".
        offsets: frames from a start to its targets.

    Raises:
        ValueError: if the clips are too short for that.
    """
    windows = motion_windows(motion, split, offsets)
    x, v = windows.positions, windows.velocities
    highest = motion_windows(motion, "training", offsets).positions[..., 1].max()
    edges, apart = bone_graph(motion.bones, motion.n_joints)
    squared = (x[:, edges[0]] - x[:, edges[1]]).square().sum(-1)
    return Paths(
        x,
        v,
        windows.targets,
        torch.tensor(list(offsets), dtype=torch.float32),
        torch.stack((v.norm(dim=-1), x[..., 1] / highest), -1),
        edges,
        torch.stack((apart.float().expand(len(x), -1), squared), -1),
    )


def mocap_task(motion: MotionClips, name: str) -> PathTask:
    """The task of a table.

    Args:
        motion: the clips.
        name: "mocap-uniform" or "mocap-last".
    """
    return PathTask(name, *(mocap_paths(motion, split, OFFSETS[name]) for split in SPLITS))


def clip_groups(motion: MotionClips) -> Tensor:
    """Number of the clip of each training start, from 0 without gaps, `(n,)` int64."""
    limit = SPLITS["training"][1]
    counts = [len(starts[:limit]) for starts in motion.starts["training"].values()]
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def rows(groups: Tensor, kinds: Tensor) -> dict[str, Row]:
    """The trained rows.

    Args:
        groups: `(n,)` clips of the training starts.
        kinds: `(n_joints,)` kinds of joints.
    """
    published = published_recipe(EPOCHS, BATCH_SIZE, 5e-4)

    def as_published(task: PathTask, time: bool) -> nn.Module:
        return PublishedEGNO(task, HIDDEN, LAYERS, use_time_conv=time)

    def ours(task: PathTask, time: bool) -> nn.Module:
        guess = LineGuess(task.training)
        return CorrectingEGNO(task, guess, 32, 3, kinds=kinds, use_time_conv=time)

    def after_ridge(task: PathTask) -> nn.Module:
        device = task.training.positions.device
        guess = KernelGuess(task.training, groups.to(device), mirror_twins(kinds).to(device))
        return CorrectingEGNO(task, guess, 32, 3, kinds=kinds, first_step=0.01)

    return {
        "EGNN as published": Row(lambda task: as_published(task, False), published),
        "EGNO as published": Row(lambda task: as_published(task, True), published),
        "EGNO as published, bfloat16": Row(
            lambda task: Bfloat16Products(as_published(task, True)), published
        ),
        "EGNN, ours": Row(lambda task: ours(task, False), OURS),
        "EGNO, ours": Row(lambda task: ours(task, True), OURS),
        "EGNO after kernel ridge": Row(after_ridge, CORRECTION),
    }


def still(batch: PathBatch) -> Tensor:
    """Everything stays where it is: `(B, P, N, 3)`."""
    return batch.positions[:, None].expand_as(batch.targets)


def measure(config: BenchmarkConfig) -> list[Table]:
    """Train and test the rows.

    Args:
        config: what to measure; `molecules` names tables, "mocap-uniform" if there are none.

    Raises:
        FileNotFoundError: if the data is not there.
        ValueError: if data or options are wrong.
    """
    if config.data is None:
        raise FileNotFoundError(
            "benchmark mocap needs data: give --data, the file or folder of the CMU clips"
        )
    wanted = config.molecules or ("mocap-uniform",)
    unknown = [name for name in wanted if name not in OFFSETS]
    if unknown:
        raise ValueError(f"no tables {unknown} in mocap; there are {list(OFFSETS)}")
    motion = read_mocap(find_mocap_file(config.data))
    return [_table(config, motion, name) for name in wanted]


def _table(config: BenchmarkConfig, motion: MotionClips, name: str) -> Table:
    task, groups = mocap_task(motion, name), clip_groups(motion)
    kinds = joint_kinds(motion.bones, motion.n_joints)
    caption = CAPTION.format(
        sizes="/".join(str(len(split)) for split in (task.training, task.validation, task.test)),
        offsets=", ".join(f"t+{k}" for k in OFFSETS[name]),
        epochs=config.epochs or EPOCHS,
        seeds=", ".join(map(str, config.seeds)),
    )
    table = measure_rows(
        config, task, rows(groups, kinds), caption=caption, unit="unit of length squared", name=name
    )
    if not config.rows or "linear" in config.rows:
        _add_control(table, 0, "static", path_errors(still, task.test))
        guess = KernelGuess(task.training, groups, mirror_twins(kinds)).eval()
        _add_control(table, 3, CONTROL, path_errors(guess, task.test))
    table.notes += NOTES
    return table


def _add_control(table: Table, place: int, label: str, mse: Tensor) -> None:
    """Put a row without training into the table; `mse` is `(P,)`."""
    table.rows.insert(place, (label, 0, float(mse[-1]), float(mse.mean()), None, None, None))
