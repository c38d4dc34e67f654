"""A fit that is given processor time instead of a number of steps.

The learning rate must fall to its end within the budget, so the steps that fit into it are
counted beforehand, from the time that a few of them take. The count is kept in the fit's folder:
a fit that goes on does so with the same one.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
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
    draft = FitSettings(steps=1, batch_size=32, learning_rate=learning_rate, seed=seed)

    def batch(step: int, generator: torch.Generator) -> BatchT:
        return sample(draft.batch_size, generator)

    record = folder / "steps.json"
    if resume and record.exists():
        steps = int(json.loads(record.read_text(encoding="utf-8"))["steps"])
    else:
        steps = _affordable(model, batch, loss, validate, cpu_seconds, draft)
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"steps": steps}), encoding="utf-8")
    every = max(1, steps // _N_VALIDATIONS)
    settings = FitSettings(
        steps=steps,
        batch_size=draft.batch_size,
        learning_rate=learning_rate,
        warmup_steps=min(100, steps // 5),
        final_fraction=0.005,
        ema_decay=min(0.995, 1.0 - 10.0 / (steps + 10.0)),
        gradient_clip=1.0,
        validate_every=every,
        checkpoint_every=every,
        cpu_minutes=1.1 * cpu_seconds / 60.0,
        seed=seed,
    )
    return fit(
        model, batch, loss, validate, settings, folder, resume=resume, description=description
    )


def _affordable(
    model: nn.Module,
    batch: Callable[[int, torch.Generator], BatchT],
    loss: Callable[[nn.Module, BatchT], tuple[Tensor, Mapping[str, float | Tensor]]],
    validate: Callable[[nn.Module], Mapping[str, float]],
    cpu_seconds: float,
    draft: FitSettings,
) -> int:
    """How many steps fit into the budget beside the validations, at least one."""
    pilot = copy.deepcopy(model)
    optimizer = make_optimizer(pilot, draft)
    pilot.train()
    began = 0.0
    for step in range(2 * _N_TIMED):
        if step == _N_TIMED:
            began = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        value, _ = loss(pilot, batch(step, step_generator(draft.seed, step)))
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(pilot.parameters(), 1.0)
        optimizer.step()
    per_step = (time.process_time() - began) / _N_TIMED
    began = time.process_time()
    validate(pilot)
    per_validation = time.process_time() - began
    return max(1, round((cpu_seconds - _N_VALIDATIONS * per_validation) / per_step))
