"""Trains an eSCN potential from labelled frames and writes its bundle."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from egno_md.bonds import constitution, guess_bonds
from egno_md.bundle import save_bundle
from egno_md.config import TrainConfig
from egno_md.data.frames import LabelledFrames
from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.models.escn_md import ESCNMD
from egno_md.training.card import trained_card
from egno_md.training.force_matching import (
    ForceMatching,
    Scales,
    held_out_measures,
    refuse_unknown_elements,
)
from egno_md.training.frame_graphs import FrameGraphs, epoch_sampler
from egno_md.training.learning_curve import learning_curve
from egno_md.training.loop import fit
from egno_md.training.settings import fit_settings
from egno_md.training.sources import FrameSets, frame_sets, start_structure, work_folder

#: Compiling costs about two minutes of processor time; shorter trainings do without.
COMPILE_FROM_STEPS = 10_000
COMPILE_FROM_CPU_MINUTES = 10.0

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
    "repulsion",
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
    _refuse_missing_stresses(config, sets)
    for held_out in (sets.validation, sets.test):
        refuse_unknown_elements(held_out, scales.elements)
    model, training = make_network(config, sets, scales)
    validation = FrameGraphs(sets.validation, model.cutoff_A, config.device)
    compiled = _compiled(config, training)
    weights = (config.force_weight, config.energy_weight, config.stress_weight)
    matching = ForceMatching(scales.force_rms, *weights, compiled)
    settings = fit_settings(config)

    def validate(network: nn.Module) -> dict[str, float]:
        measures = held_out_measures(network, validation)
        return {"score": matching.score(measures)} | measures

    folder = work_folder(config)
    result = fit(
        model,
        epoch_sampler(training, settings.batch_size, settings.seed, filled=compiled is not None),
        matching,
        validate,
        settings,
        folder,
        resume=config.resume,
        description="eSCN",
    )
    test = FrameGraphs(sets.test, model.cutoff_A, config.device)
    measures = held_out_measures(model.eval(), test)
    card = trained_card(
        config,
        command,
        model=model,
        molecules=_molecules(config, sets.training),
        data=[sets.training],
        test=[sets.test],
        counts=_counts(sets),
        results=[result],
        measures=measures,
        curve=learning_curve([folder]),
    )
    return save_bundle(Path(config.out), card, model.state_dict())


def _counts(sets: FrameSets) -> dict[str, int]:
    """Frames of each kind."""
    return {
        "n_frames": sets.training.n_frames,
        "n_validation": sets.validation.n_frames,
        "n_test": sets.test.n_frames,
    }


def _molecules(config: TrainConfig, frames: LabelledFrames) -> list[str]:
    """What the frames are of; nothing for cells, or where there are several compositions."""
    if config.potential:
        molecule = start_structure(config.structure[0]).molecule
        return [constitution(molecule.numbers, molecule.bonds)]
    sizes = frames.ptr.diff()
    if frames.cell is not None or bool((sizes != sizes[0]).any()):
        return []
    n = int(sizes[0])
    numbers = frames.numbers.view(-1, n)
    if bool((numbers != numbers[0]).any()):
        return []
    return [constitution(numbers[0], guess_bonds(numbers[0], frames.positions[:n]))]


def _refuse_missing_stresses(config: TrainConfig, sets: FrameSets) -> None:
    """Refuse to learn from stresses that are not there."""
    if config.stress_weight == 0.0:
        return
    for frames in (sets.training, sets.validation, sets.test):
        if frames.stress is None:
            raise ValueError(
                f"stress_weight is {config.stress_weight:g} but {frames.source} lacks stresses of "
                "some or all frames; set it to 0 or give frames with stresses"
            )


def _compiled(config: TrainConfig, training: FrameGraphs) -> CompiledGradient | None:
    """How energies and forces are compiled, or None."""
    fits = training.one_size and config.stress_weight == 0.0
    if config.compile == "always":
        if not fits:
            raise ValueError(
                "compile = always needs frames of one size and no stress_weight; leave it at auto"
            )
        return CompiledGradient(strict=True)
    minutes = math.inf if config.cpu_minutes is None else config.cpu_minutes
    pays = config.n_steps >= COMPILE_FROM_STEPS and minutes >= COMPILE_FROM_CPU_MINUTES
    return CompiledGradient() if config.compile == "auto" and fits and pays else None


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
