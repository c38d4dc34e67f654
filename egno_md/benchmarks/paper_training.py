"""Training and testing of one row of the paper's tables.

The loss is the mean squared error of the positions over all points in time, nodes and
components; A-MSE is the same on test data, F-MSE that of the last point alone. The epoch is
chosen by the F-MSE of the validation split, as in the published code; test data is read once,
at the end, with the weights of that epoch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from egno_md.benchmarks.paths import PathBatch, Paths, PathTask
from egno_md.models.egno import EGNO
from egno_md.training.loop import FitResult, fit
from egno_md.training.settings import FitSettings

RESULT = "result.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a row is trained; epochs are passes over the training split.

    Attributes:
        epochs: passes in all; the schedule ends with them.
        batch_size: samples per step; an epoch leaves out the last, smaller batch.
        learning_rate: largest learning rate.
        warmup_epochs: rise of the learning rate.
        schedule: its fall.
        final_fraction: learning rate at the end over the largest.
        weight_decay: decoupled; the published runs have Adam's own, so small (1e-8 to 1e-15 in
            all but AdK, 1e-4) that the difference is not seen.
        ema_decay: of the averaged weights; 0 averages nothing.
        gradient_clip: largest norm of the gradient; None clips nothing.
        validate_every_epochs: epochs between validations.
        optimizer: AdamW or SOAP.
    """

    epochs: int
    batch_size: int = 100
    learning_rate: float = 1e-3
    warmup_epochs: float = 1.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_fraction: float = 0.01
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    gradient_clip: float | None = 1.0
    validate_every_epochs: int = 5
    optimizer: Literal["adamw", "soap"] = "adamw"


def published_recipe(epochs: int, batch_size: int, learning_rate: float) -> Recipe:
    """Recipe of the published code: Adam at a constant learning rate, nothing else.

    Args:
        epochs: passes over the training split.
        batch_size: samples per step.
        learning_rate: as published for the task.
    """
    return Recipe(
        epochs,
        batch_size,
        learning_rate,
        warmup_epochs=0.0,
        schedule="constant",
        ema_decay=0.0,
        gradient_clip=None,
    )


@dataclass(frozen=True, slots=True)
class PathResult:
    """What a row achieved on the test split.

    Attributes:
        f_mse: mean squared error at the last time, unit of the task squared.
        a_mse: the same over all times.
        mse: the same at each time.
        validation_f_mse: F-MSE of the validation split at the chosen epoch.
        best_epoch: the chosen epoch.
        epochs: epochs done.
        cpu_seconds: processor time of the training with its validations.
        n_parameters: weights of the model.
    """

    f_mse: float
    a_mse: float
    mse: tuple[float, ...]
    validation_f_mse: float
    best_epoch: float
    epochs: float
    cpu_seconds: float
    n_parameters: int


class PublishedEGNO(nn.Module):
    """The published EGNO as a row: batches in, positions at the task's times out."""

    def __init__(
        self,
        task: PathTask,
        hidden: int,
        n_layers: int,
        *,
        use_time_conv: bool = True,
        num_modes: int = 2,
    ) -> None:
        """Make the network for a task.

        Args:
            task: gives time points and widths of features.
            hidden: width inside.
            n_layers: layers.
            use_time_conv: False gives an EGNN with a time embedding.
            num_modes: Fourier modes kept.
        """
        super().__init__()
        paths = task.training
        widths = (paths.node_features.shape[-1], paths.n_edge_features)
        self.egno = EGNO(
            n_layers,
            *widths,
            hidden,
            use_time_conv=use_time_conv,
            num_modes=num_modes,
            num_timesteps=len(paths.times),
        )

    def forward(self, batch: PathBatch) -> Tensor:
        """Positions `(B, P, N, 3)` of a batch."""
        count, nodes, _ = batch.positions.shape
        x = batch.positions
        centres = x.mean(1, keepdim=True).expand_as(x).flatten(0, 1)
        found, _, _ = self.egno(
            x.flatten(0, 1),
            batch.velocities.flatten(0, 1),
            batch.node_features.flatten(0, 1),
            batch.edge_index,
            batch.edge_features,
            centres,
        )
        out: Tensor = found.view(-1, count, nodes, 3).transpose(0, 1)
        return out


@torch.no_grad()
def path_errors(
    predict: Callable[[PathBatch], Tensor], paths: Paths, batch_size: int = 200
) -> Tensor:
    """Mean squared error at each time.

    Args:
        predict: gives positions `(B, P, N, 3)`.
        paths: the samples.
        batch_size: samples at a time; changes nothing but speed and rounding.

    Returns:
        `(P,)` float64, mean over samples, nodes and components.
    """
    total = torch.zeros(len(paths.times), dtype=torch.float64)
    everything = torch.arange(len(paths), device=paths.positions.device)
    for first in range(0, len(paths), batch_size):
        batch = paths.batch(everything[first : first + batch_size])
        square = (predict(batch) - batch.targets).double().square()
        total += square.mean((2, 3)).sum(0).cpu()
    return total / len(paths)


def linear_baselines(task: PathTask) -> dict[str, PathResult]:
    """Straight lines: `x + t v`, and `x + c v` with the best c of each time on training data.

    Args:
        task: the task.

    Returns:
        results named "x + t v" and "x + c v".
    """
    train = task.training
    moved = train.targets - train.positions[:, None]
    v = train.velocities[:, None]
    fitted = (moved * v).double().sum((0, 2, 3)) / v.double().square().sum().clamp(min=1e-300)
    results = {}
    for name, factor in (("x + t v", train.times), ("x + c v", fitted)):
        scale = factor.to(train.positions)[:, None, None]

        def predict(batch: PathBatch, scale: Tensor = scale) -> Tensor:
            return batch.positions[:, None] + scale * batch.velocities[:, None]

        test, check = path_errors(predict, task.test), path_errors(predict, task.validation)
        fitted_weights = 0 if name == "x + t v" else len(train.times)
        results[name] = _result(test, float(check[-1]), fitted_weights)
    return results


def _result(mse: Tensor, validation: float, n_parameters: int) -> PathResult:
    values = tuple(mse.tolist())
    return PathResult(
        values[-1], float(mse.mean()), values, validation, 0.0, 0.0, 0.0, n_parameters
    )


def seeded(make: Callable[[PathTask], nn.Module], task: PathTask, seed: int) -> nn.Module:
    """Make a model whose first weights are given by a seed; the global stream stays as it was.

    Args:
        make: makes it.
        task: what it is for.
        seed: the seed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(task)


def train_row(
    make: Callable[[PathTask], nn.Module],
    task: PathTask,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    cpu_minutes: float | None = None,
    resume: bool = False,
) -> PathResult:
    """Train a model on a task and test it.

    Args:
        make: gives a module which takes a `PathBatch` to positions `(B, P, N, 3)`; a method
            `path_loss(batch)` of it, if there is one, is the loss it is trained with.
        task: the task.
        recipe: how.
        folder: takes checkpoint, weights, log and result.
        seed: of first weights and batches.
        cpu_minutes: stop after this much processor time; None sets no limit.
        resume: take a finished result in the folder as it is, or go on from its checkpoint.

    Raises:
        ValueError: if the folder holds another training.
        TrainingDiverged: if the loss is not finite.
    """
    settings = _settings(recipe, task.training, seed, cpu_minutes)
    described = {"recipe": asdict(recipe), "seed": seed, "task": task.name}
    finished = folder / RESULT
    if resume and finished.exists():
        return _read_result(finished, described)
    model = seeded(make, task, seed).to(task.training.positions.device)
    done = fit(
        model,
        _Epochs(task.training, settings.batch_size, seed),
        _loss,
        lambda model: _validation(model, task.validation),
        settings,
        folder,
        resume=resume,
        description=folder.name,
    )
    result = _tested(model, task, done, settings)
    text = json.dumps({"result": asdict(result), **described}, indent=1)
    finished.write_text(text + "\n", encoding="utf-8")
    return result


def _tested(model: nn.Module, task: PathTask, done: FitResult, settings: FitSettings) -> PathResult:
    mse = path_errors(model.eval(), task.test)
    per_epoch = len(task.training) // settings.batch_size
    return PathResult(
        float(mse[-1]),
        float(mse.mean()),
        tuple(mse.tolist()),
        done.best_score,
        done.best_step / per_epoch,
        done.steps / per_epoch,
        done.cpu_seconds,
        sum(p.numel() for p in model.parameters()),
    )


def _settings(recipe: Recipe, paths: Paths, seed: int, cpu_minutes: float | None) -> FitSettings:
    batch_size = min(recipe.batch_size, len(paths))
    per_epoch = len(paths) // batch_size
    every = recipe.validate_every_epochs * per_epoch
    return FitSettings(
        steps=recipe.epochs * per_epoch,
        batch_size=batch_size,
        learning_rate=recipe.learning_rate,
        warmup_steps=round(recipe.warmup_epochs * per_epoch),
        schedule=recipe.schedule,
        final_fraction=recipe.final_fraction,
        weight_decay=recipe.weight_decay,
        ema_decay=recipe.ema_decay,
        gradient_clip=recipe.gradient_clip,
        validate_every=every,
        checkpoint_every=every,
        log_every=per_epoch,
        cpu_minutes=cpu_minutes,
        seed=seed,
        optimizer=recipe.optimizer,
    )


class _Epochs:
    """Batches: each epoch is a permutation that depends on the seed and its number alone."""

    def __init__(self, paths: Paths, batch_size: int, seed: int) -> None:
        self.paths, self.batch_size, self.seed = paths, batch_size, seed
        self.per_epoch = len(paths) // batch_size
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int, generator: torch.Generator) -> PathBatch:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            own = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self.order = torch.randperm(len(self.paths), generator=own)
            self.epoch = epoch
        chosen = self.order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.paths.batch(chosen.to(self.paths.positions.device))


def _loss(model: nn.Module, batch: PathBatch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
    # Validation and test measure all rows alike.
    own: Callable[[PathBatch], Tensor] | None = getattr(model, "path_loss", None)
    if own is not None:
        return own(batch), {}
    square = (model(batch) - batch.targets).square()
    return square.mean(), {"f_mse": square[:, -1].detach().mean()}


def _validation(model: nn.Module, paths: Paths) -> dict[str, float]:
    mse = path_errors(model, paths)
    return {"score": float(mse[-1]), "a_mse": float(mse.mean())}


def _read_result(path: Path, described: Mapping[str, Any]) -> PathResult:
    found = json.loads(path.read_text(encoding="utf-8"))
    values = found.pop("result")
    if found != json.loads(json.dumps(described)):
        raise ValueError(
            f"{path} is the result of another training ({found}), asked for {dict(described)}; "
            "take another output folder"
        )
    return PathResult(**(values | {"mse": tuple(values["mse"])}))
