"""Rows of the potentials' table: networks of some sizes, trained in one way on every data set.

| what | how |
|---|---|
| optimiser | SOAP (row "L2-adamw": AdamW), cosine to 0.005 of the rate, averaged weights |
| loss | norms of errors of forces, energies per atom and virials per atom, weighed 1 : 3 : 1 |
| batch | up to 8 frames, fewer where they have many neighbours |
| end | the schedule ends with the budget of processor time, planning and compiling included |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from egno_md.benchmarks.budgeted_fit import planned
from egno_md.benchmarks.potential_bundle import save_potential
from egno_md.benchmarks.potential_data import PotentialTask
from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.models.escn_md import ESCNMD
from egno_md.training.escn_training import COMPILE_FROM_CPU_MINUTES, COMPILE_FROM_STEPS
from egno_md.training.force_matching import (
    ForceMatching,
    Scales,
    held_out_measures,
    refuse_unknown_elements,
)
from egno_md.training.frame_graphs import FrameGraphs, epoch_sampler
from egno_md.training.loop import FitResult, fit
from egno_md.training.settings import FitSettings

RESULT = "result.json"

#: Frames per step, and edges per step above which there are fewer.
_BATCH_SIZE: Final = 8
_EDGES_PER_STEP: Final = 6000


@dataclass(frozen=True, slots=True)
class PotentialRow:
    """A network and how it is trained.

    Attributes:
        network: options of `ESCNMD`.
        optimizer: AdamW or SOAP.
        learning_rate: largest learning rate.
        force_weight: of the loss, see `ForceMatching`.
        energy_weight: of the loss.
        stress_weight: of the loss, where the frames have stresses.
    """

    network: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Literal["adamw", "soap"] = "soap"
    learning_rate: float = 3e-3
    force_weight: float = 1.0
    energy_weight: float = 3.0
    stress_weight: float = 1.0


def _sized(max_degree: int, max_order: int) -> PotentialRow:
    """A row of the learning curve: nothing but degree and order differ."""
    return PotentialRow({"max_degree": max_degree, "max_order": max_order})


_L2: Final = {"max_degree": 2, "max_order": 2, "channels": 64, "hidden_channels": 32, "n_layers": 3}

_SMALL: Final = {"max_degree": 1, "max_order": 1, "hidden_channels": 16, "radial_hidden": 32}

#: The small network of `egno-md benchmark speed`.
_SMALL_L2M1: Final = {
    "max_degree": 2,
    "max_order": 1,
    "channels": 32,
    "hidden_channels": 32,
    "n_layers": 3,
}

#: Rows by name; those with "mirror" give mirror images the same energy by construction.
ROWS: Final[Mapping[str, PotentialRow]] = {
    "small": PotentialRow(_SMALL),
    "small-mirror": PotentialRow(_SMALL | {"mirror": True}),
    "small-L2M1": PotentialRow(_SMALL_L2M1),
    "L2": PotentialRow(_L2),
    "L2-mirror": PotentialRow(_L2 | {"mirror": True}),
    "L2-adamw": PotentialRow(_L2, "adamw"),
    "L1M1": _sized(1, 1),
    "L2M1": _sized(2, 1),
    "L2M2": _sized(2, 2),
    "L3M1": _sized(3, 1),
    "L3M2": _sized(3, 2),
    "L3M3": _sized(3, 3),
}

#: Rows of a table for which none are asked.
DEFAULT_ROWS: Final = ("small-mirror", "L2-mirror")


@dataclass(frozen=True, slots=True)
class PotentialResult:
    """What a training achieved.

    Attributes:
        measures: held-out measures of each test set.
        validation: those of the validation set at the chosen step.
        n_parameters: weights of the network.
        steps: steps done.
        best_step: the chosen one.
        epochs: passes over the training set.
        planned_steps: steps of the schedule; fewer are done where the budget ends them.
        cpu_seconds: processor time of training, validations, planning and compiling.
        compiled: whether forces were compiled.
    """

    measures: dict[str, dict[str, float]]
    validation: dict[str, float]
    n_parameters: int
    steps: int
    best_step: int
    epochs: float
    planned_steps: int
    cpu_seconds: float
    compiled: bool


def train_potential(
    task: PotentialTask,
    row: PotentialRow,
    folder: Path,
    *,
    seed: int,
    cpu_minutes: float,
    epochs: int | None = None,
    resume: bool = False,
    device: str = "cpu",
    name: str = "network",
) -> PotentialResult:
    """Train a network on a data set and test it once, with the weights that validate best.

    A bundle of it is written to the folder, ready to run.

    Args:
        task: the data set.
        row: network and recipe.
        folder: takes checkpoint, weights, log and result.
        seed: of first weights and batches.
        cpu_minutes: budget of processor time; the schedule ends with it.
        epochs: passes over the training set, in place of what the budget allows.
        resume: take a finished result in the folder as it is, or go on from its checkpoint.
        device: where to train.
        name: of the row, for the bundle SET-NAME.bundle.

    Raises:
        ValueError: if the folder holds another training, or the data does not fit.
        TrainingDiverged: if the loss is not finite.
    """
    described = {
        "set": task.name,
        "row": asdict(row),
        "seed": seed,
        "cpu_minutes": cpu_minutes,
        "epochs": epochs,
    }
    finished = folder / RESULT
    if resume and finished.exists():
        return PotentialResult(**kept_result(finished, described))
    long = _is_long(task.training.n_frames, cpu_minutes, epochs)
    fitting = _Fitting.of(task, row, seed, device, long=long)
    done, spent = fitting.run(folder, cpu_minutes, epochs, resume)
    result = fitting.tested(task, done, spent, device)
    text = json.dumps({"result": asdict(result), **described}, indent=1)
    budget = f"--cpu-minutes {cpu_minutes:g}" if epochs is None else f"--epochs {epochs}"
    command = (
        f"egno-md benchmark potentials --data DATA --molecules {task.name} --rows {name} "
        f"--seeds {seed} {budget}"
    )
    save_potential(
        task, fitting.model, result, folder / f"{task.name}-{name}.bundle", command, seed
    )
    finished.write_text(text + "\n", encoding="utf-8")
    return result


def _is_long(n_frames: int, cpu_minutes: float, epochs: int | None) -> bool:
    """Whether a training is long enough to compile its forces."""
    if epochs is None:
        return cpu_minutes >= COMPILE_FROM_CPU_MINUTES
    return epochs * n_frames // _BATCH_SIZE >= COMPILE_FROM_STEPS


@dataclass(slots=True, eq=False)
class _Fitting:
    """One training: network, graphs, loss and settings but for their number of steps."""

    model: ESCNMD
    training: FrameGraphs
    validation: FrameGraphs
    matching: ForceMatching
    draft: FitSettings

    @classmethod
    def of(
        cls, task: PotentialTask, row: PotentialRow, seed: int, device: str, *, long: bool
    ) -> _Fitting:
        """Make the untrained network and find all neighbours; compile what is trained long."""
        scales = Scales.of(task.training)
        for frames in (task.validation, *task.tests.values()):
            refuse_unknown_elements(frames, scales.elements)
        cutoff_A = ESCNMD([1], **{**row.network, "n_layers": 0}).cutoff_A
        training = FrameGraphs(task.training, cutoff_A, device)
        validation = FrameGraphs(task.validation, cutoff_A, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ESCNMD(
                scales.elements,
                typical_neighbours=round(max(training.mean_neighbours, 1.0), 2),
                reference_energies_eV=scales.reference_energies_eV,
                energy_scale_eV=scales.force_rms,
                **row.network,
            ).to(device)
        stressed = task.training.stress is not None
        compiles = long and training.one_size and not stressed
        matching = ForceMatching(
            scales.force_rms,
            row.force_weight,
            row.energy_weight,
            row.stress_weight if stressed else 0.0,
            CompiledGradient() if compiles else None,
        )
        edges = training.mean_neighbours * float(task.training.sizes.double().mean())
        draft = FitSettings(
            steps=1,
            batch_size=max(1, min(_BATCH_SIZE, round(_EDGES_PER_STEP / max(edges, 1.0)))),
            learning_rate=row.learning_rate,
            warmup_steps=200,
            final_fraction=0.005,
            ema_decay=0.999,
            seed=seed,
            optimizer=row.optimizer,
        )
        return cls(model, training, validation, matching, draft)

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Measure the validation set and score it as the loss does."""
        measures = held_out_measures(network, self.validation)
        return {"score": self.matching.score(measures)} | measures

    def run(
        self, folder: Path, cpu_minutes: float, epochs: int | None, resume: bool
    ) -> tuple[FitResult, float]:
        """Fit; return how it went and the processor time spent before, s."""
        draft, seconds, spent = self.draft, 60.0 * cpu_minutes, 0.0
        sample = epoch_sampler(
            self.training,
            draft.batch_size,
            draft.seed,
            filled=self.matching.compiled is not None,
        )
        if self.matching.compiled is not None:
            _compile_in_this_process()
        if epochs is None:
            settings, spent = planned(
                self.model,
                sample,
                self.matching,
                self.validate,
                draft,
                cpu_seconds=seconds,
                folder=folder,
                resume=resume,
                stop_at=1.3,
                charged=True,
            )
        else:
            steps = epochs * max(1, self.training.n_frames // draft.batch_size)
            settings = _of_steps(draft, steps)
        self.draft = settings
        done = fit(
            self.model,
            sample,
            self.matching,
            self.validate,
            settings,
            folder,
            resume=resume,
            description=folder.name,
        )
        return done, spent

    def tested(
        self, task: PotentialTask, done: FitResult, spent: float, device: str
    ) -> PotentialResult:
        """Measure the test sets."""
        self.model.eval()
        measures = {
            name: held_out_measures(self.model, FrameGraphs(frames, self.model.cutoff_A, device))
            for name, frames in task.tests.items()
        }
        compiled = self.matching.compiled
        return PotentialResult(
            measures,
            done.best_measures,
            sum(p.numel() for p in self.model.parameters()),
            done.steps,
            done.best_step,
            done.steps / max(1, task.training.n_frames // self.draft.batch_size),
            self.draft.steps,
            done.cpu_seconds + spent,
            compiled is not None and compiled.failure is None,
        )


def _of_steps(draft: FitSettings, steps: int) -> FitSettings:
    """Settings of so many steps."""
    every = max(1, steps // 8)
    changes: dict[str, Any] = {
        "steps": steps,
        "warmup_steps": min(draft.warmup_steps, steps // 5),
        "validate_every": every,
        "checkpoint_every": every,
    }
    return FitSettings(**(asdict(draft) | changes))


def _compile_in_this_process() -> None:
    """Let no worker processes compile, so that their time is counted."""
    import torch._inductor.config as inductor

    inductor.compile_threads = 1


def kept_result(path: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept as "result" in a file beside a description of the training.

    Args:
        path: the file.
        described: what the description must be.

    Raises:
        ValueError: if it is another one.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    values: dict[str, Any] = found.pop("result")
    if found != json.loads(json.dumps(described)):
        raise ValueError(
            f"{path} is the result of another training ({found}), asked for {dict(described)}; "
            "take another output folder"
        )
    return values
