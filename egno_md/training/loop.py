"""One training loop for every kind of model.

The loop knows nothing of molecules: it is given a batch sampler, a loss and a validation. It
brings AdamW, warm-up and decay of the learning rate, an average of the weights, gradient
clipping, checkpoints, a log, and keeps the weights that validate best.

A step depends on the seed, its number and the checkpoint alone, so a fit that was killed and
resumed gives the same weights, bit for bit, as one that was not (same machine and threads).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from egno_md.data.cache import read_tensors, write_tensors
from egno_md.data.progress import Advance, progress_bar
from egno_md.training.averaging import WeightAverage
from egno_md.training.checkpoint import load_checkpoint, save_checkpoint
from egno_md.training.log import cut_log, write_line
from egno_md.training.settings import FitSettings, learning_rate_at
from egno_md.training.soap import SOAP

BatchT = TypeVar("BatchT")
Measures = Mapping[str, float | Tensor]
StoppedBy = Literal["steps", "cpu_minutes"]

CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
LOG = "log.jsonl"

#: Settings that may differ between the parts of a resumed fit.
_FREE = ("cpu_minutes", "checkpoint_every", "log_every")


class TrainingDiverged(ValueError):
    """The loss or its gradient stopped being a finite number."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a fit went.

    Attributes:
        steps: steps done.
        best_step: step of the best validation.
        best_score: its score.
        best_measures: everything that validation measured.
        cpu_seconds: processor time, all resumed parts together.
        wall_seconds: time on the clock, all parts together.
        stopped_by: why it ended.
    """

    steps: int
    best_step: int
    best_score: float
    best_measures: dict[str, float]
    cpu_seconds: float
    wall_seconds: float
    stopped_by: StoppedBy


@dataclass(slots=True)
class _Progress:
    """What changes while a fit goes on, besides weights."""

    step: int = 0
    best_step: int = -1
    best_score: float = math.inf
    best_measures: dict[str, float] = field(default_factory=dict)
    cpu_before: float = 0.0
    wall_before: float = 0.0
    cpu_start: float = field(default_factory=time.process_time)
    wall_start: float = field(default_factory=time.monotonic)

    @property
    def cpu_seconds(self) -> float:
        return self.cpu_before + time.process_time() - self.cpu_start

    @property
    def wall_seconds(self) -> float:
        return self.wall_before + time.monotonic() - self.wall_start

    def notes(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best_step": self.best_step,
            "best_score": self.best_score if math.isfinite(self.best_score) else None,
            "best_measures": self.best_measures,
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": self.wall_seconds,
        }

    def result(self, stopped_by: StoppedBy) -> FitResult:
        return FitResult(
            self.step,
            self.best_step,
            self.best_score,
            self.best_measures,
            self.cpu_seconds,
            self.wall_seconds,
            stopped_by,
        )

    def take(self, notes: Mapping[str, Any]) -> None:
        self.step = int(notes["step"])
        self.best_step = int(notes["best_step"])
        score = notes["best_score"]
        self.best_score = math.inf if score is None else float(score)
        self.best_measures = dict(notes["best_measures"])
        self.cpu_before = float(notes["cpu_seconds"])
        self.wall_before = float(notes["wall_seconds"])


@dataclass(slots=True, eq=False)
class _Fit(Generic[BatchT]):
    """One fit under way."""

    model: nn.Module
    sample_batch: Callable[[int, torch.Generator], BatchT]
    loss: Callable[[nn.Module, BatchT], tuple[Tensor, Measures]]
    validate: Callable[[nn.Module], Mapping[str, float]]
    settings: FitSettings
    folder: Path
    optimizer: torch.optim.Optimizer
    average: WeightAverage
    progress: _Progress

    def step(self) -> dict[str, float]:
        """Do one step; return what it measured."""
        settings, step = self.settings, self.progress.step
        rate = learning_rate_at(settings, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.sample_batch(step, step_generator(settings.seed, step))
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss, measures = self.loss(self.model, batch)
        if not bool(torch.isfinite(loss.detach())):
            raise self._diverged(f"the loss became {float(loss.detach())}")
        loss.backward()  # type: ignore[no-untyped-call]
        limit = math.inf if settings.gradient_clip is None else settings.gradient_clip
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient's norm became {norm}")
        self.optimizer.step()
        self.average.update(self.model)
        self.progress.step += 1
        row = {"loss": float(loss.detach()), "gradient_norm": norm, "learning_rate": rate}
        return row | {k: float(v) for k, v in measures.items()}

    def _diverged(self, what: str) -> TrainingDiverged:
        kept = (
            f"the best weights so far (step {self.progress.best_step}) are in {self.folder / BEST}"
            if self.progress.best_step >= 0
            else "no weights were validated yet"
        )
        return TrainingDiverged(
            f"{what} at step {self.progress.step}; {kept}; lower the learning rate "
            f"({self.settings.learning_rate:g}) or the gradient clip"
        )

    def validation(self) -> dict[str, float]:
        """Validate the averaged weights; keep them if they are the best so far."""
        progress = self.progress
        measures = {k: float(v) for k, v in self.validate(self.average.model).items()}
        if "score" not in measures:
            raise ValueError("the validation must return a measure named score")
        if measures["score"] < progress.best_score:
            progress.best_score, progress.best_step = measures["score"], progress.step
            progress.best_measures = measures
            weights = {k: v.cpu() for k, v in self.average.model.state_dict().items()}
            write_tensors(
                self.folder / BEST, weights, {"step": progress.step, "measures": measures}
            )
        return measures

    def save(self) -> None:
        """Write a checkpoint."""
        notes = self.progress.notes() | {"settings": asdict(self.settings)}
        save_checkpoint(self.folder / CHECKPOINT, self.model, self.average, self.optimizer, notes)

    def log(self, kind: str, measures: Mapping[str, float]) -> None:
        """Write a line to the log."""
        times = {
            "wall_seconds": round(self.progress.wall_seconds, 3),
            "cpu_seconds": round(self.progress.cpu_seconds, 3),
        }
        row = {"step": self.progress.step, "kind": kind, **measures, **times}
        write_line(self.folder / LOG, row)

    def resume(self) -> None:
        """Go back to the last checkpoint."""
        notes = load_checkpoint(self.folder / CHECKPOINT, self.model, self.average, self.optimizer)
        now = asdict(self.settings)
        for name, before in notes["settings"].items():
            if name not in _FREE and now.get(name) != before:
                raise ValueError(
                    f"cannot resume in {self.folder}: {name} was {before} and is now "
                    f"{now.get(name)}; keep it or start in another folder"
                )
        self.progress.take(notes)
        cut_log(self.folder / LOG, self.progress.step)

    def over_budget(self) -> bool:
        """Whether the processor time is used up."""
        limit = self.settings.cpu_minutes
        return limit is not None and self.progress.cpu_seconds > 60.0 * limit

    def go(self, interrupted: threading.Event, advance: Advance) -> StoppedBy:
        """Step to the end, the budget, or an interrupt; return why it ended."""
        settings, progress = self.settings, self.progress
        sums: dict[str, float] = {}
        count, note = 0, ""
        if progress.best_step > 0 and progress.step < settings.steps and self.over_budget():
            return "cpu_minutes"  # it was when this was stopped, too
        while progress.step < settings.steps:
            for name, value in self.step().items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            step, last = progress.step, progress.step == settings.steps
            over = self.over_budget()
            if step % settings.log_every == 0 or last:
                means = {name: value / count for name, value in sums.items()}
                self.log("training", means)
                sums, count = {}, 0
                note = f"loss {means['loss']:.4g}, best {progress.best_score:.4g}"
            if step % settings.validate_every == 0 or last or over:
                self.log("validation", self.validation())
            if step % settings.checkpoint_every == 0 or last or over or interrupted.is_set():
                self.save()
            advance(1, note)
            if interrupted.is_set():
                raise KeyboardInterrupt
            if over and not last:
                return "cpu_minutes"
        return "steps"


def step_generator(seed: int, step: int) -> torch.Generator:
    """Source of randomness of one step: a function of the seed and the step alone.

    Args:
        seed: seed of the fit.
        step: number of the step.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + step * 7_919 + 12_345) % 2**63)


def fit(
    model: nn.Module,
    sample_batch: Callable[[int, torch.Generator], BatchT],
    loss: Callable[[nn.Module, BatchT], tuple[Tensor, Measures]],
    validate: Callable[[nn.Module], Mapping[str, float]],
    settings: FitSettings,
    folder: Path,
    *,
    resume: bool = False,
    description: str = "training",
) -> FitResult:
    """Fit a model; at the end it holds the best validated weights.

    Args:
        model: the model, changed in place.
        sample_batch: `(step, generator) -> batch`; must depend on nothing else.
        loss: `(model, batch) -> (loss, measures)`; the loss is a scalar with a gradient.
        validate: `(model) -> measures` with a measure "score", lower is better; it is given
            the averaged weights, and not called under `torch.no_grad`, as forces need gradients.
        settings: the numbers.
        folder: takes checkpoint, best weights and log.
        resume: go on from the checkpoint in the folder, if there is one.
        description: what the progress bar says.

    Returns:
        How it went.

    Raises:
        TrainingDiverged: if loss or gradient are not finite; the best weights stay on disk.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with a checkpoint of the last whole step.
        ValueError: if the folder holds another fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = (folder / CHECKPOINT).exists()
    if found and not resume:
        raise ValueError(f"{folder} already holds a training; resume it or take another folder")
    if not found:
        (folder / LOG).unlink(missing_ok=True)
    work = _Fit(
        model,
        sample_batch,
        loss,
        validate,
        settings,
        folder,
        make_optimizer(model, settings),
        WeightAverage(model, settings.ema_decay),
        _Progress(),
    )
    if found:
        work.resume()
    with (
        _postponed_interrupt() as interrupted,
        progress_bar(description, settings.steps, work.progress.step) as advance,
    ):
        stopped_by = work.go(interrupted, advance)
    if work.progress.best_step < 0:
        raise TrainingDiverged(f"no validation of {folder} gave a finite score")
    model.load_state_dict(load_best(folder))
    return work.progress.result(stopped_by)


def load_best(folder: Path) -> dict[str, Tensor]:
    """Read the weights that validated best.

    Args:
        folder: the fit's folder.

    Raises:
        FileNotFoundError: if nothing was validated yet.
    """
    return read_tensors(folder / BEST)[0]


def make_optimizer(model: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    """Make AdamW or SOAP, which decay matrices only.

    SOAP takes the weights of modules with `stacked_first` for matrices over their last two axes.

    Args:
        model: gives the weights.
        settings: gives the kind, learning rate and decay.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    modules = [m for m in model.modules() if getattr(m, "stacked_first", False)]
    theirs = {id(p) for m in modules for p in m.parameters(recurse=False) if p.ndim > 2}
    decay = settings.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p for p in weights if p.ndim >= 2 and id(p) not in theirs]},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in weights if id(p) in theirs]},
    ]
    used = [{"weight_decay": decay, **g} for g in groups if g["params"]]
    if settings.optimizer == "soap":
        for group in used:
            group["stacked_first"] = any(id(p) in theirs for p in group["params"])
        return SOAP(used, settings.learning_rate)
    return torch.optim.AdamW(used, lr=settings.learning_rate)


@contextmanager
def _postponed_interrupt() -> Iterator[threading.Event]:
    """Let Ctrl-C and SIGTERM wait for the end of the step; a second Ctrl-C does not wait."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
