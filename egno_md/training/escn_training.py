"""Trains an eSCN potential from labelled frames and writes its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from egno_md.bundle import BundleCard, package_versions, save_bundle
from egno_md.config import TrainConfig
from egno_md.data.cache import config_hash
from egno_md.models.escn_md import ESCNMD
from egno_md.training.force_matching import (
    ForceMatching,
    Scales,
    held_out_measures,
    refuse_unknown_elements,
)
from egno_md.training.frame_graphs import EpochBatches, FrameBatch, FrameGraphs
from egno_md.training.loop import FitResult, fit
from egno_md.training.settings import FitSettings
from egno_md.training.sources import FrameSets, frame_sets, names_only, work_folder

#: Options of the network that a job may set.
ARCHITECTURE_OPTIONS = (
    "cutoff_A",
    "n_layers",
    "n_radial",
    "max_degree",
    "max_order",
    "channels",
    "hidden_channels",
    "radial_hidden",
    "mirror",
)


def train_escn(config: TrainConfig, command: str = "") -> Path:
    """Train an eSCN potential and write its bundle.

    Args:
        config: the job, of kind "escn".
        command: the command that asked for it, for the card.

    Returns:
        The folder of the bundle.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the data or a setting is wrong, or the training diverges.
    """
    torch.set_num_threads(config.n_threads)
    sets = frame_sets(config)
    scales = Scales.of(sets.training)
    for held_out in (sets.validation, sets.test):
        refuse_unknown_elements(held_out, scales.elements)
    model, training = make_network(config, sets, scales)
    validation = FrameGraphs(sets.validation, model.cutoff_A, config.device)
    matching = ForceMatching(scales.force_rms, config.force_weight, config.energy_weight)
    settings = fit_settings(config)
    batches = EpochBatches(training.n_frames, settings.batch_size, settings.seed)

    def sample_batch(step: int, generator: torch.Generator) -> FrameBatch:
        return training.batch(batches.indices(step))

    def validate(network: nn.Module) -> dict[str, float]:
        measures = held_out_measures(network, validation)
        score = (
            config.force_weight * measures["force_mae_meV_per_A"]
            + config.energy_weight * measures["energy_mae_meV_per_atom"]
        )
        return {"score": score, **measures}

    folder = work_folder(config)
    result = fit(
        model,
        sample_batch,
        matching,
        validate,
        settings,
        folder,
        resume=config.resume,
        description="eSCN",
    )
    test = FrameGraphs(sets.test, model.cutoff_A, config.device)
    measures = held_out_measures(model.eval(), test)
    card = make_card(config, command, sets, model, result, measures)
    return save_bundle(Path(config.out), card, model.state_dict())


def make_network(
    config: TrainConfig, sets: FrameSets, scales: Scales
) -> tuple[ESCNMD, FrameGraphs]:
    """Make an untrained network fit for the data, and the training graphs.

    Args:
        config: gives the architecture, dtype, device and seed.
        sets: the data.
        scales: offsets and sizes of the training set.
    """
    given = {
        name: getattr(config, name)
        for name in ARCHITECTURE_OPTIONS
        if getattr(config, name) is not None
    }
    # The cutoff's default is the network's; its own constructor is asked for it.
    cutoff_A = float(given.get("cutoff_A", ESCNMD([1], n_layers=0).cutoff_A))
    training = FrameGraphs(sets.training, cutoff_A, config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = ESCNMD(
            scales.elements,
            typical_neighbours=round(max(training.mean_neighbours, 1.0), 2),
            reference_energies_eV=scales.reference_energies_eV,
            energy_scale_eV=scales.force_rms,
            **given,
        )
    model.to(device=config.device, dtype=getattr(torch, config.dtype))
    return model, training


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
    )


def make_card(
    config: TrainConfig,
    command: str,
    sets: FrameSets,
    model: ESCNMD,
    result: FitResult,
    measures: dict[str, float],
) -> BundleCard:
    """Write down what was done and measured.

    Args:
        config: the job.
        command: the command that asked for it.
        sets: the data.
        model: the trained network.
        result: how the fit went.
        measures: measures on the test set.
    """
    made = config.potential is not None
    training: dict[str, Any] = {
        "command": command,
        "data": ", ".join(names_only(sets.training.source.split(", "))),
        "sha256": sets.training.sha256(),
        "test_sha256": sets.test.sha256(),
        "n_frames": sets.training.n_frames,
        "n_validation": sets.validation.n_frames,
        "n_test": sets.test.n_frames,
        "steps": result.steps,
        "best_step": result.best_step,
        "cpu_seconds": round(result.cpu_seconds, 1),
        "wall_seconds": round(result.wall_seconds, 1),
        "seed": config.seed,
        "settings": config_hash(config.model_dump(mode="json", exclude={"out", "work", "resume"})),
    }
    facts: dict[str, Any] = dict(
        name=Path(config.out).name.removesuffix(".bundle"),
        kind="escn",
        architecture=model.architecture(),
        elements=list(model.elements),
        cutoff_A=model.cutoff_A,
        dtype=config.dtype,
        level_of_theory=config.level_of_theory,
        temperature_range_K=(min(config.temperatures_K), max(config.temperatures_K))
        if made
        else None,
        training=training,
        held_out=measures,
        versions=package_versions(),
        citation=config.citation,
    )
    return BundleCard.model_validate(facts)
