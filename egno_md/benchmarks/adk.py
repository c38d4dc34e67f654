"""`egno-md benchmark adk`: the backbone of a protein, from one frame to 15 frames later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.correcting_egno import CorrectingEGNO, LineGuess
from egno_md.benchmarks.paper_training import PublishedEGNO, Recipe, path_errors, seeded
from egno_md.benchmarks.path_table import Row, chosen_rows, measure_rows
from egno_md.benchmarks.paths import Paths, PathTask
from egno_md.benchmarks.table import Cell, Table, benchmark_folder
from egno_md.data.adk import (
    TRAJECTORIES,
    BackboneTrajectory,
    chronological_starts,
    contact_graph,
    find_adk_files,
    read_backbone,
)
from egno_md.training.loop import load_best

#: Frames from a start to its targets; the last is the published delta_frame.
OFFSETS: Final = (3, 7, 11, 15)
CUTOFF_A: Final = 8.0
#: Published: 128, 4, until validation stops to improve, 8.
HIDDEN, LAYERS, EPOCHS, BATCH_SIZE = 16, 2, 4, 2
OURS: Final = Recipe(
    EPOCHS,
    BATCH_SIZE,
    learning_rate=3e-3,
    warmup_epochs=0.2,
    ema_decay=0.9,
    validate_every_epochs=1,
)

CAPTION: Final = (
    "AdK: backbone of adenylate kinase, {atoms} atoms, trajectory {name} ({frames} frames of a "
    "driven transition): the paper's protein, not the paper's equilibrium trajectory, so its "
    "numbers do not compare. From frame i to frames {offsets}; velocity: difference to the next "
    "frame; contacts within 8 Å at the start; {sizes} starts for training, validation and test in "
    "the order of time. Node features: speed, charge over the largest charge; edge features: "
    "distance, its square. H = 16, 2 layers, P = 4, 2 modes, {epochs} epochs (published: H = 128, "
    "4 layers, early stopping). Mean and spread over seeds {seeds}; test data at the epoch of the "
    "best validation F-MSE. F-MSE: last time; A-MSE: mean over times."
)
ROTATED: Final = (
    "AdK, trajectory {name}: the same test starts, and each turned at random and shifted by a "
    "random multiple of half its size, as published. Deviation: of the predictions, turned back."
)


def adk_paths(found: BackboneTrajectory, starts: Sequence[int]) -> Paths:
    """Some starts as a task; times are frames, lengths Å.

    Args:
        found: the trajectory.
        starts: numbers of the frames.
    """
    x, first = found.positions, torch.tensor(list(starts))
    start, v = x[first], x[first + 1] - x[first]
    graphs = [contact_graph(frame, CUTOFF_A) for frame in start]
    distances = [
        (frame[row] - frame[col]).norm(dim=-1)
        for frame, (row, col) in zip(start, graphs, strict=True)
    ]
    charges = (found.charges / found.charges.max()).expand(len(start), -1)
    return Paths(
        start,
        v,
        x[first[:, None] + torch.tensor(OFFSETS)],
        torch.tensor(OFFSETS, dtype=torch.float32),
        torch.stack((v.norm(dim=-1), charges), -1),
        graphs,
        [torch.stack((d, d.square()), -1) for d in distances],
    )


def adk_task(found: BackboneTrajectory, name: str) -> PathTask:
    """The task of a trajectory.

    Args:
        found: the trajectory.
        name: of the task.

    Raises:
        ValueError: if it is too short.
    """
    starts = chronological_starts(len(found.positions), OFFSETS[-1])
    return PathTask(name, *(adk_paths(found, chosen) for chosen in starts.values()))


def moved_paths(paths: Paths, seed: int) -> tuple[Paths, Tensor, Tensor]:
    """Turn and shift every sample at random, as in the published second test.

    Args:
        paths: the samples.
        seed: of turns and shifts.

    Returns:
        the samples moved; the turns `(n, 3, 3)`; the shifts `(n, 3)`: `x' = R x + s`.
    """
    own = torch.Generator().manual_seed(seed)
    n = len(paths)
    q = torch.nn.functional.normalize(torch.randn(n, 4, generator=own, dtype=torch.float64), dim=-1)
    turns = _turns(q).to(paths.positions)
    extent = paths.targets.amax((1, 2)) - paths.targets.amin((1, 2))
    shifts = torch.randn(n, 3, generator=own).to(extent) * extent / 2

    def turned(vectors: Tensor) -> Tensor:
        return torch.einsum("nij,n...j->n...i", turns, vectors)

    moved = Paths(
        turned(paths.positions) + shifts[:, None],
        turned(paths.velocities),
        turned(paths.targets) + shifts[:, None, None],
        paths.times,
        paths.node_features,
        paths.edges,
        paths.edge_features,
    )
    return moved, turns, shifts


def _turns(quaternions: Tensor) -> Tensor:
    """Rotation matrices `(n, 3, 3)` of unit quaternions `(n, 4)`."""
    w, x, y, z = quaternions.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def rows() -> dict[str, Row]:
    """The trained rows."""

    def as_published(task: PathTask, time: bool) -> nn.Module:
        return PublishedEGNO(task, HIDDEN, LAYERS, use_time_conv=time)

    def ours(task: PathTask) -> nn.Module:
        return CorrectingEGNO(task, LineGuess(task.training), HIDDEN, LAYERS)

    return {
        "EGNN": Row(lambda task: as_published(task, False), OURS),
        "EGNO": Row(lambda task: as_published(task, True), OURS),
        "EGNO after x + c v": Row(ours, OURS),
    }


def measure(config: BenchmarkConfig) -> list[Table]:
    """Train and test the rows on a trajectory.

    Args:
        config: what to measure; `molecules` names trajectories, "tmd" if there are none.

    Raises:
        FileNotFoundError: if the data is not there.
        ValueError: if data or options are wrong.
    """
    if config.data is None:
        raise FileNotFoundError(
            "benchmark adk needs data: give --data, the folder of adk.psf and a trajectory"
        )
    tables = []
    for trajectory in config.molecules or ("tmd",):
        found = read_backbone(*find_adk_files(config.data, trajectory))
        name = f"adk-{Path(trajectory).stem}"
        task = adk_task(found, name)
        caption = CAPTION.format(
            atoms=len(found.names),
            name=TRAJECTORIES.get(trajectory, trajectory),
            frames=len(found.positions),
            offsets=", ".join(f"i+{k}" for k in OFFSETS),
            sizes="/".join(str(len(s)) for s in (task.training, task.validation, task.test)),
            epochs=config.epochs or EPOCHS,
            seeds=", ".join(map(str, config.seeds)),
        )
        table = measure_rows(config, task, rows(), caption=caption, unit="Å^2", name=name)
        still = path_errors(lambda b: b.positions[:, None].expand_as(b.targets), task.test)
        static = ("static", 0, float(still[-1]), float(still.mean()), None, None, None)
        table.rows.insert(0, static)
        tables += [table, _moved_table(config, task, name)]
    return tables


def _moved_table(config: BenchmarkConfig, task: PathTask, name: str) -> Table:
    """Test the trained rows on starts turned and shifted."""
    table = Table(
        f"{name}-moved",
        ROTATED.format(name=name.removeprefix("adk-")),
        ("row", "F-MSE (Å^2)", "F-MSE, turned and shifted (Å^2)", "largest deviation (Å)"),
    )
    for label, row in chosen_rows(config, rows()).items():
        errors = []
        for seed in config.seeds:
            folder = benchmark_folder(config) / name / f"{label.replace(' ', '_')}-{seed}"
            model = seeded(row.make, task, seed)
            model.load_state_dict(load_best(folder))
            errors.append(_moved_errors(model.eval(), task.test, seed))
        table.add(label, *(Cell.of(values) for values in zip(*errors, strict=True)))
    return table


@torch.no_grad()
def _moved_errors(model: nn.Module, paths: Paths, seed: int) -> tuple[float, float, float]:
    """F-MSE, F-MSE of the moved samples, and the largest deviation of a coordinate."""
    moved, turns, shifts = moved_paths(paths, seed)
    plain = hard = worst = 0.0
    for k in range(len(paths)):
        one = torch.tensor([k])
        x, y = model(paths.batch(one))[0], model(moved.batch(one))[0]
        plain += float((x[-1] - paths.targets[k, -1]).square().mean()) / len(paths)
        hard += float((y[-1] - moved.targets[k, -1]).square().mean()) / len(paths)
        worst = max(worst, float((x @ turns[k].T + shifts[k] - y).abs().max()))
    return plain, hard, worst
