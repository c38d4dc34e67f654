"""A fit that is given processor time instead of a number of steps.

The learning rate must fall to its end within the budget, so the steps that fit into it are
counted beforehand, from the time that a few of them take. The count is kept in the fit's folder:
a fit that goes on does so with the same one.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from egno_md.training.loop import FitResult, fit, make_optimizer, step_generator
from egno_md.training.settings import FitSettings

BatchT = TypeVar("BatchT")

#: Validations of a fit.
_N_VALIDATIONS = 8

#: Steps that are timed, after as many that are not.
_N_TIMED = 5


def fit_within(
    model: nn.Module,
    sample: Callable[[int, torch.Generator], BatchT],
    loss: Callable[[nn.Module, BatchT], tuple[Tensor, Mapping[str, float | Tensor]]],
    validate: Callable[[nn.Module], Mapping[str, float]],
    *,
    cpu_seconds: float,
    learning_rate: float,
    seed: int,
    folder: Path,
    resume: bool,
    description: str,
) -> FitResult:
    """Fit a model in about so much processor time; see `egno_md.training.loop.fit`.

    Args:
        model: the model, changed in place.
        sample: draws a batch of a size, `(batch_size, generator)`.
        loss: its loss.
        validate: measures the averaged weights.
        cpu_seconds: the budget; the fit is stopped when it exceeds it by a tenth.
        learning_rate: largest learning rate.
        seed: seed of the batches.
        folder: takes checkpoint, best weights, log and the number of steps.
        resume: go on from the checkpoint in the folder.
        description: what the progress bar says.

    Raises:
        ValueError: if the folder holds a fit and `resume` is False.
    """
    draft = FitSettings(
        steps=1,
        batch_size=32,
        learning_rate=learning_rate,
        final_fraction=0.005,
        ema_decay=0.995,
        gradient_clip=1.0,
        seed=seed,
    )

    def batch(step: int, generator: torch.Generator) -> BatchT:
        return sample(draft.batch_size, generator)

    settings, _ = planned(
        model, batch, loss, validate, draft, cpu_seconds=cpu_seconds, folder=folder, resume=resume
    )
    return fit(
        model, batch, loss, validate, settings, folder, resume=resume, description=description
    )


def planned(
    model: nn.Module,
    batch: Callable[[int, torch.Generator], BatchT],
    loss: Callable[[nn.Module, BatchT], tuple[Tensor, Mapping[str, float | Tensor]]],
    validate: Callable[[nn.Module], Mapping[str, float]],
    draft: FitSettings,
    *,
    cpu_seconds: float,
    folder: Path,
    resume: bool,
    stop_at: float = 1.1,
    charged: bool = False,
) -> tuple[FitSettings, float]:
    """Settings of a fit whose schedule ends with the budget.

    Args:
        model: the model; it stays as it is.
        batch: gives the batch of a step.
        loss: its loss.
        validate: measures the averaged weights.
        draft: all settings that do not follow from the number of steps.
        cpu_seconds: the budget.
        folder: takes the number of steps.
        resume: take the number of steps found there.
        stop_at: the fit is stopped when it exceeds the budget by this factor.
        charged: whether the time of the planning itself, compilers included, is of the budget.

    Returns:
        The settings, and the processor time of the planning, s.
    """
    record = folder / "steps.json"
    if resume and record.exists():
        notes = json.loads(record.read_text(encoding="utf-8"))
        steps, spent = int(notes["steps"]), float(notes.get("cpu_seconds", 0.0))
    else:
        began = _all_cpu_seconds()
        per_step, per_validation = _costs(model, batch, loss, validate, cpu_seconds, draft)
        spent = _all_cpu_seconds() - began
        left = cpu_seconds - _N_VALIDATIONS * per_validation - (spent if charged else 0.0)
        steps = max(1, round(left / per_step))
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"steps": steps, "cpu_seconds": round(spent, 3)})
        record.write_text(text, encoding="utf-8")
    every = max(1, steps // _N_VALIDATIONS)
    settings = replace(
        draft,
        steps=steps,
        warmup_steps=min(draft.warmup_steps, steps // 5),
        ema_decay=min(draft.ema_decay, 1.0 - 10.0 / (steps + 10.0)),
        validate_every=every,
        checkpoint_every=every,
        cpu_minutes=stop_at * cpu_seconds / 60.0,
    )
    return settings, spent


def _all_cpu_seconds() -> float:
    """Processor time of this process and of those it started and saw end, such as compilers."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _costs(
    model: nn.Module,
    batch: Callable[[int, torch.Generator], BatchT],
    loss: Callable[[nn.Module, BatchT], tuple[Tensor, Mapping[str, float | Tensor]]],
    validate: Callable[[nn.Module], Mapping[str, float]],
    cpu_seconds: float,
    draft: FitSettings,
) -> tuple[float, float]:
    """Processor time of a step and of a validation, s."""
    pilot = copy.deepcopy(model)
    optimizer = make_optimizer(pilot, draft)
    pilot.train()
    began, step, timed = 0.0, 0, 0.0
    # A hundredth of the budget, so that steps of all kinds are among the timed ones.
    while step < 2 * _N_TIMED or timed < 0.01 * cpu_seconds:
        if step == _N_TIMED:
            began = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        value, _ = loss(pilot, batch(step, step_generator(draft.seed, step)))
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(pilot.parameters(), 1.0)
        optimizer.step()
        step += 1
        timed = time.process_time() - began if step > _N_TIMED else 0.0
    per_step = timed / (step - _N_TIMED)
    began = time.process_time()
    validate(pilot)
    return per_step, time.process_time() - began
