"""How a fit is done: numbers only, the same for every kind of model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from egno_md.config import TrainConfig


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Numbers of one fit, checked at birth.

    Attributes:
        steps: optimiser steps in all.
        batch_size: samples per step; the batch sampler reads it.
        learning_rate: largest learning rate.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        schedule: shape of its fall afterwards, over the remaining steps.
        final_fraction: learning rate at the last step, as a fraction of the largest.
        weight_decay: decoupled decay of matrices; vectors and scalars are left alone.
        ema_decay: decay of the average of the weights which is validated and kept; 0 averages
            nothing.
        gradient_clip: largest norm of the gradient; None clips nothing.
        validate_every: steps between validations.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines of the log.
        cpu_minutes: stop after this much processor time, all resumed parts together; the
            schedule still counts steps. None sets no limit.
        seed: seed of the batches.
        optimizer: AdamW, or SOAP (`egno_md.training.soap`).
    """

    steps: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_fraction: float = 0.01
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    gradient_clip: float | None = 10.0
    validate_every: int = 500
    checkpoint_every: int = 500
    log_every: int = 20
    cpu_minutes: float | None = None
    seed: int = 0
    optimizer: Literal["adamw", "soap"] = "adamw"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: naming the setting, what it is and what is allowed.
        """
        for name in ("steps", "batch_size", "validate_every", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError("warmup_steps and weight_decay must not be negative")
        for name in ("ema_decay", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        for name in ("gradient_clip", "cpu_minutes"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive or none, got {getattr(self, name)}")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ValueError(
                f"schedule {self.schedule!r} is not known; allowed are cosine, linear, constant"
            )
        if self.optimizer not in ("adamw", "soap"):
            raise ValueError(
                f"optimizer {self.optimizer!r} is not known; allowed are adamw and soap"
            )


def learning_rate_at(settings: FitSettings, step: int) -> float:
    """Learning rate of a step, counted from 0; a function of the step alone.

    Args:
        settings: the fit's numbers.
        step: number of the step.
    """
    rise = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    span = max(1, settings.steps - settings.warmup_steps - 1)
    done = min(1.0, max(0.0, (step - settings.warmup_steps) / span))
    left = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }[settings.schedule]
    floor = 1.0 if settings.schedule == "constant" else settings.final_fraction
    return settings.learning_rate * rise * (floor + (1.0 - floor) * left)


def fit_settings(config: TrainConfig) -> FitSettings:
    """Pick the settings of the fit out of a job.

    Args:
        config: the job.
    """
    return FitSettings(
        steps=config.n_steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        schedule=config.schedule,
        final_fraction=config.final_fraction,
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
        gradient_clip=config.gradient_clip,
        validate_every=config.validate_every,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        cpu_minutes=config.cpu_minutes,
        seed=config.seed,
        optimizer=config.optimizer,
    )
