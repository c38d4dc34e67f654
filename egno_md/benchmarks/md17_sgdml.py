"""`egno-md benchmark md17-sgdml`: molecules by the published protocol, and in the MD regime.

With sGDML models in the data folder, trajectories are made with them and the tables are called
MD17-sGDML. With original MD17 files there, the first table is made from those and called MD17.

| data folder holds | tables |
|---|---|
| `sgdml_model_<molecule>.npz` | published protocol; horizons of 8 to 64 fs (`md17_horizons`) |
| `md17_<molecule>.npz` | published protocol; published starts if `egno_splits/*.npz` is there |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from egno_md.benchmark_config import BenchmarkConfig
from egno_md.benchmarks.md17_horizons import HORIZON_ROWS, WindowPlan, horizon_table
from egno_md.benchmarks.md17_tasks import published_task
from egno_md.benchmarks.paper_training import PublishedEGNO, Recipe
from egno_md.benchmarks.path_table import Row, measure_rows
from egno_md.benchmarks.paths import PathTask
from egno_md.benchmarks.table import Table, benchmark_folder
from egno_md.data.md17 import (
    N_STARTS,
    PositionWindows,
    published_starts,
    random_starts,
    read_md17,
    windows_at,
)
from egno_md.data.md17_sgdml import Replicas, sample_position_windows, training_geometry
from egno_md.data.sgdml import SGDMLPotential

#: Width and layers of the published MD17 model.
HIDDEN: Final = 64
N_LAYERS: Final = 5

#: Rows of the first table that are trained.
PAPER_ROWS: Final = ("EGNN", "EGNO")

_ORIGINAL = re.compile(r"md17_([a-z]+(?:_old|2017)?)\.npz")
_MODEL = re.compile(r"sgdml_model_(\w+)\.npz")

#: F-MSE x 10^-2 Å^2 of (EGNN, EGNO) in the paper, as recalled; the paper was not at hand.
_RECALLED: Final = {
    "aspirin": (14.41, 9.18),
    "benzene_old": (62.40, 48.85),
    "ethanol": (4.64, 4.62),
    "malonaldehyde": (13.64, 12.80),
    "naphthalene": (0.47, 0.37),
    "salicylic": (1.02, 0.86),
    "toluene": (11.78, 10.21),
    "uracil": (0.64, 0.52),
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a molecule's data comes from.

    Attributes:
        molecule: its name.
        file: an sGDML model, or an original MD17 file.
        original: whether it is the latter.
    """

    molecule: str
    file: Path
    original: bool

    @property
    def title(self) -> str:
        """What the data is called: never MD17 unless it is."""
        return "MD17" if self.original else "MD17-sGDML"


@dataclass(frozen=True, slots=True)
class Scope:
    """How much data the tables are made of.

    Attributes:
        n_starts: starts of the published protocol.
        replicas: trajectories that they are taken from.
        windows: windows of the MD regime.
    """

    n_starts: Mapping[str, int] = field(default_factory=lambda: N_STARTS)
    replicas: Replicas = field(default_factory=Replicas)
    windows: WindowPlan = field(default_factory=WindowPlan)


def measure(config: BenchmarkConfig, scope: Scope | None = None) -> list[Table]:
    """Make the tables of every molecule.

    Args:
        config: names the data folder, molecules, rows, seeds and budget.
        scope: how much data; None for that of the published protocol.

    Raises:
        FileNotFoundError: if there is no data of a molecule.
        ValueError: if an option or the data is wrong.
    """
    known = ("linear", *PAPER_ROWS, *HORIZON_ROWS)
    if unknown := [name for name in config.rows if name not in known]:
        raise ValueError(f"no rows {unknown} in {config.name}; there are {list(known)}")
    scope = scope or Scope()
    tables = []
    for source in sources(config):
        if not config.rows or set(config.rows) & {"linear", *PAPER_ROWS}:
            tables.append(_paper_table(config, source, scope))
        if source.original:
            continue
        if not config.rows or set(config.rows) & {"linear", *HORIZON_ROWS}:
            tables.append(horizon_table(config, source.molecule, source.file, scope.windows))
    return tables


def sources(config: BenchmarkConfig) -> list[Source]:
    """Find the data of the molecules asked for; original files come before force fields.

    Args:
        config: names the data folder and the molecules.

    Raises:
        FileNotFoundError: if there is no such folder, or no data of a molecule in it.
        ValueError: if no folder was given.
    """
    if config.data is None:
        raise ValueError(
            f"{config.name} needs --data FOLDER with sGDML models, sgdml_model_<molecule>.npz "
            "(github.com/stefanch/sGDML, models/), or with original trajectories, "
            "md17_<molecule>.npz"
        )
    folder = Path(config.data)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    found: dict[str, Source] = {}
    for original, pattern in ((True, _ORIGINAL), (False, _MODEL)):
        files = [(file, pattern.fullmatch(file.name)) for file in sorted(folder.iterdir())]
        found = {hit[1]: Source(hit[1], file, original) for file, hit in files if hit}
        if found:
            break
    if not found:
        raise FileNotFoundError(
            f"{folder} has neither sgdml_model_<molecule>.npz nor md17_<molecule>.npz files"
        )
    if absent := [name for name in config.molecules if name not in found]:
        raise FileNotFoundError(
            f"{folder} has no {found[min(found)].title} data of {', '.join(absent)}; "
            f"it has {', '.join(found)}"
        )
    return [found[name] for name in config.molecules or found]


def paper_windows(
    config: BenchmarkConfig, source: Source, scope: Scope
) -> dict[str, PositionWindows]:
    """Read or make the starts of the published protocol.

    Args:
        config: names the folder in which made trajectories are kept.
        source: the data.
        scope: how much of it.

    Raises:
        ValueError: if the data is wrong.
    """
    if not source.original:
        potential = SGDMLPotential.from_npz(source.file)
        start = training_geometry(source.file)
        return sample_position_windows(
            potential,
            start,
            scope.replicas,
            n_starts=scope.n_starts,
            cache=benchmark_folder(config) / "data",
        )
    trajectory = read_md17(source.file)
    published = published_file(source)
    if published is not None:
        starts = published_starts(published, source.molecule, trajectory.n_frames)
    else:
        starts = random_starts(trajectory.n_frames, 0, scope.n_starts)
    return {part: windows_at(trajectory, starts[part]) for part in N_STARTS}


def published_file(source: Source) -> Path | None:
    """Return the file of published start frames beside the data, if there is one.

    Args:
        source: the data.
    """
    return next(iter(sorted((source.file.parent / "egno_splits").glob("*.npz"))), None)


def default_epochs(n_edges: int) -> int:
    """Epochs whose cost depends little on the molecule.

    Args:
        n_edges: directed edges of its graph.
    """
    return min(60, 2800 // (n_edges + 6))


def paper_rows(task: PathTask) -> dict[str, Row]:
    """The trained rows: with and without temporal convolution.

    Args:
        task: gives the size of the graph.
    """
    epochs = default_epochs(task.training.edge_features[0].shape[0])
    recipe = Recipe(epochs, batch_size=50, validate_every_epochs=10)
    return {"EGNN": Row(_without_convolution, recipe), "EGNO": Row(_published, recipe)}


def _published(task: PathTask) -> PublishedEGNO:
    return PublishedEGNO(task, HIDDEN, N_LAYERS)


def _without_convolution(task: PathTask) -> PublishedEGNO:
    return PublishedEGNO(task, HIDDEN, N_LAYERS, use_time_conv=False)


def _paper_table(config: BenchmarkConfig, source: Source, scope: Scope) -> Table:
    task = published_task(
        f"{source.title.lower()}-{source.molecule}", paper_windows(config, source, scope)
    )
    rows = paper_rows(task)
    mine = tuple(name for name in config.rows if name in ("linear", *PAPER_ROWS))
    table = measure_rows(
        config.model_copy(update={"rows": mine}),
        task,
        rows,
        caption=_caption(config, source, scope, rows["EGNO"].recipe),
        unit="10^-2 Å^2",
        scale=100.0,
        name=f"{source.title.lower()}-{source.molecule}",
    )
    table.notes.append(
        "EGNN is the published model without temporal convolution, which is what the published "
        "MD17 command runs; EGNO has it."
    )
    if source.original and source.molecule in _RECALLED:
        egnn, egno = _RECALLED[source.molecule]
        table.notes.append(f"Paper, recalled, not read: F-MSE EGNN {egnn}, EGNO {egno}.")
    return table


def _caption(config: BenchmarkConfig, source: Source, scope: Scope, recipe: Recipe) -> str:
    how = scope.replicas
    if not source.original:
        data = (
            "trajectories of the sGDML force field that was trained on MD17, not MD17 itself, at "
            f"{how.temperature_K:g} K and then constant energy, without drift and rotation; "
            f"starts from {how.training}/{how.validation}/{how.test} replicas, none shared "
            "between splits"
        )
    elif published_file(source) is not None:
        data = "the published start frames of the original trajectory"
    else:
        data = "random start frames of the original trajectory, side by side as published"
    return (
        f"{source.title}, {source.molecule}, published protocol: {data}. "
        + "/".join(str(n) for n in scope.n_starts.values())
        + " starts for training/validation/test; heavy atoms; velocity is the step to the next "
        "frame (0.5 fs); 8 times up to 3000 frames (1.5 ps). Published features but for the "
        f"hand-written stick flags; width {HIDDEN}, {N_LAYERS} layers; "
        f"{config.epochs or recipe.epochs} epochs of batches of {recipe.batch_size}, learning rate "
        f"{recipe.learning_rate:g} falling "
        "as a cosine (published: 5000 epochs of 100 at 1e-4). Test error at the epoch of the best "
        "validation F-MSE; mean ± standard deviation over seeds."
    )
