"""Trains an eSCN potential from labelled frames and writes its bundle."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from egno_md.bonds import constitution, guess_bonds
from egno_md.bundle import save_bundle
from egno_md.config import TrainConfig
from egno_md.data.frames import LabelledFrames
from egno_md.models.escn_md import ESCNMD
from egno_md.training.card import trained_card
from egno_md.training.force_matching import (
    ForceMatching,
    Scales,
    held_out_measures,
    refuse_unknown_elements,
)
from egno_md.training.frame_graphs import EpochBatches, FrameBatch, FrameGraphs
from egno_md.training.loop import fit
from egno_md.training.settings import fit_settings
from egno_md.training.sources import FrameSets, frame_sets, start_structure, work_folder

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
        return _scored(config, held_out_measures(network, validation))

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
    card = trained_card(
        config,
        command,
        model=model,
        molecules=_molecules(config, sets.training),
        data=[sets.training],
        test=[sets.test],
        counts={
            "n_frames": sets.training.n_frames,
            "n_validation": sets.validation.n_frames,
            "n_test": sets.test.n_frames,
        },
        results=[result],
        measures=measures,
    )
    return save_bundle(Path(config.out), card, model.state_dict())


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


def _scored(config: TrainConfig, measures: dict[str, float]) -> dict[str, float]:
    """Add the number that chooses the best weights, weighed as the loss is."""
    forces = config.force_weight * measures["force_mae_meV_per_A"]
    return {"score": forces + config.energy_weight * measures["energy_mae_meV_per_atom"]} | measures


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
