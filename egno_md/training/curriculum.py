"""Trains a Hamiltonian EGNO: forces first, then segments, then chains of segments.

Forces alone give a network that knows the molecule but not the long step; segments from random
weights get stuck. So each stage starts from the best weights of the one before: chain 0 matches
forces, chain 1 the frames after one application of the map, chain 2 after two, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from egno_md.bonds import bond_graph_distance, constitution
from egno_md.bundle import save_bundle
from egno_md.config import TrainConfig
from egno_md.data.cache import remember
from egno_md.data.progress import progress_bar
from egno_md.data.reference_md import sample_windows
from egno_md.data.windows import Windows
from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph, distance_statistics
from egno_md.propagators.learned import molecule_graph
from egno_md.roles import Potential
from egno_md.state import State
from egno_md.training.card import trained_card
from egno_md.training.loop import FitResult, fit
from egno_md.training.segment_loss import (
    Paths,
    Scale,
    SegmentLoss,
    predicted,
    segment_measures,
    total_energy_errors_eV,
)
from egno_md.training.settings import FitSettings, fit_settings
from egno_md.training.sources import open_potential, sampling_of, start_structure, work_folder
from egno_md.training.window_sources import windows_from_files
from egno_md.units import KCAL_PER_MOL

#: Options of the network that a job may set.
ARCHITECTURE_OPTIONS = (
    "step_fs", "n_stages", "n_modes", "n_hidden", "n_vectors", "n_layers", "n_radial", "cutoff_A",
)  # fmt: skip

#: The largest bond distance that is told apart.
_BOND_CAP = 4


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What a network learns from.

    Attributes:
        training: windows for training.
        validation: windows that choose the best weights.
        test: windows for the card.
        forces: frames `(n, n_atoms, 3)` and forces of training and validation, or None.
        potential: what made the data, or None when it came from files.
    """

    training: Windows
    validation: Windows
    test: Windows
    forces: tuple[Tensor, Tensor, Tensor, Tensor] | None
    potential: Potential | None


def train_egno(config: TrainConfig, command: str = "") -> Path:
    """Train a Hamiltonian EGNO and write its bundle.

    Args:
        config: the job, of kind "egno".
        command: the command that asked for it, for the card.

    Returns:
        The folder of the bundle.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the data or a setting is wrong, or the training diverges.
    """
    torch.set_num_threads(config.n_threads)
    stages = zip(
        config.chain,
        config.chain_steps,
        config.chain_learning_rates,
        stage_scales(config),
        strict=True,
    )
    lesson = read_lesson(config)
    molecule = lesson.training.molecule
    model = make_network(config, lesson.training)
    if config.compile != "never":
        model.compiled = CompiledGradient(strict=config.compile == "always")
    graph, own = molecule_graph(molecule, model), model.distance_mean.dtype
    results: list[FitResult] = []
    for number, (chain, steps, rate, scale) in enumerate(stages):
        if chain == 0 and lesson.forces is None:
            continue
        settings = _settings(config, steps, rate, number)
        folder = work_folder(config) / f"stage-{number}-chain-{chain}"
        # A stage that is done returns at once with its best weights.
        resume = config.resume and folder.exists()
        if chain == 0:
            results.append(_match_forces(model, graph, lesson, settings, folder, resume))
        else:
            paths = Paths.of(lesson.training, model.step_fs).cast(own, config.device)
            loss = SegmentLoss(paths, graph, chain, scale)
            results.append(_match_segments(model, loss, lesson, settings, folder, resume))
    measures = card_measures(model, graph, lesson)
    card = trained_card(
        config,
        command,
        model=model,
        molecules=[constitution(molecule.numbers, molecule.bonds)],
        data=lesson.training,
        test=lesson.test,
        counts={
            "n_windows": lesson.training.n_windows,
            "n_validation": lesson.validation.n_windows,
            "n_test": lesson.test.n_windows,
        },
        results=results,
        measures=measures,
        horizon_fs=Paths.of(lesson.test, model.step_fs).n_steps * model.step_fs,
        frame_interval_fs=model.step_fs,
    )
    return save_bundle(Path(config.out), card, model.state_dict())


def stage_scales(config: TrainConfig) -> list[Scale]:
    """Return what errors are measured by in each stage.

    Args:
        config: may leave it open.
    """
    if config.chain_scales:
        return list(config.chain_scales)
    scales: list[Scale] = ["change"] * len(config.chain)
    if config.chain and config.chain[-1] in config.chain[:-1]:
        scales[-1] = "thermal"
    return scales


def read_lesson(config: TrainConfig) -> Lesson:
    """Read or make the data of a job.

    Args:
        config: names files or a potential.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the files hold no windows or a potential cannot make them.
    """
    if config.potential is None or config.structure is None:
        return Lesson(*windows_from_files(config), None, None)
    potential = open_potential(config.potential, config.structure)
    start = start_structure(config.structure)
    cache = work_folder(config) / "data"
    training, validation, test = (
        sample_windows(
            potential,
            start,
            n,
            config.horizon_fs,
            config.frame_interval_fs,
            config.temperatures_K,
            timestep_fs=config.timestep_fs,
            sampling=sampling_of(config, part),
            cache=cache,
        )
        for part, n in enumerate((config.n_samples, config.n_validation, config.n_test))
    )
    forces = (*_forces(potential, training, cache), *_forces(potential, validation, cache))
    return Lesson(training, validation, test, forces, potential)


def _forces(potential: Potential, windows: Windows, cache: Path) -> tuple[Tensor, Tensor]:
    """Label the first and the last frame of every window, `(2 n_windows, n_atoms, 3)` each."""
    x = torch.cat([windows.positions0, windows.positions[:, -1]])

    def make() -> dict[str, Tensor]:
        parts = []
        with progress_bar("forces", len(x)) as advance:
            for chunk in torch.split(x, 256):
                parts.append(potential.evaluate(State.at_rest(windows.molecule, chunk)).forces)
                advance(len(chunk), "")
        return {"forces": torch.cat(parts)}

    # Windows remember their potential: their hash stands for both.
    return x, remember(cache, "forces", {"windows": windows.sha256()}, make)["forces"]


def make_network(config: TrainConfig, windows: Windows) -> HamiltonianEGNO:
    """Make an untrained network for the molecule of some windows.

    Args:
        config: gives the architecture, dtype, device and seed.
        windows: give the molecule and its distances.

    Raises:
        ValueError: if an option of the architecture is wrong.
    """
    molecule = windows.molecule
    apart = bond_graph_distance(molecule.n_atoms, molecule.bonds, _BOND_CAP)
    classes, mean, spread = distance_statistics(windows.positions0, molecule.numbers, apart)
    given = {
        name: getattr(config, name)
        for name in ARCHITECTURE_OPTIONS
        if getattr(config, name) is not None
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = HamiltonianEGNO(
            sorted(set(molecule.numbers.tolist())), classes, bond_cap=_BOND_CAP, **given
        )
    model.distance_mean.copy_(mean)
    model.distance_spread.copy_(spread)
    return model.to(device=config.device, dtype=getattr(torch, config.dtype))


def _settings(config: TrainConfig, steps: int, rate: float, number: int) -> FitSettings:
    """The settings of one stage: the job's, but for its own length, rate and batches."""
    return replace(
        fit_settings(config),
        steps=steps,
        learning_rate=rate,
        warmup_steps=min(config.warmup_steps, steps // 2),
        validate_every=min(config.validate_every, steps),
        checkpoint_every=min(config.checkpoint_every, steps),
        seed=config.seed + number,
    )


def _our(network: nn.Module) -> HamiltonianEGNO:
    """The network that a fit hands over: the one in training, or the average of its weights."""
    if not isinstance(network, HamiltonianEGNO):
        raise TypeError(f"a HamiltonianEGNO was to be fitted, got {type(network).__name__}")
    return network


def _match_forces(
    model: HamiltonianEGNO,
    graph: PairGraph,
    lesson: Lesson,
    settings: FitSettings,
    folder: Path,
    resume: bool,
) -> FitResult:
    """Fit the static part U(x, 0) to the potential's forces."""
    if lesson.forces is None:
        raise ValueError("forces are matched only where a potential makes the data")
    like = model.distance_mean
    x, f, held_x, held_f = (part.to(like) for part in lesson.forces)

    def sample(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        which = torch.randint(x.shape[0], (settings.batch_size,), generator=generator)
        return x[which], f[which]

    def loss(
        network: nn.Module, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        error = _our(network).force(batch[0], graph, 0) - batch[1]
        return error.square().mean().sqrt(), {}

    def validate(network: nn.Module) -> dict[str, float]:
        parts = torch.split(held_x, 256)
        got = torch.cat([_our(network).force(part, graph, 0) for part in parts])
        error = got - held_f
        relative = float(error.norm() / held_f.norm())
        mae = float(error.abs().mean()) / KCAL_PER_MOL
        return {"score": relative, "force_mae_kcal_per_mol_A": mae}

    return fit(model, sample, loss, validate, settings, folder, resume=resume, description="forces")


def _match_segments(
    model: HamiltonianEGNO,
    loss: SegmentLoss,
    lesson: Lesson,
    settings: FitSettings,
    folder: Path,
    resume: bool,
) -> FitResult:
    """Fit the frames after one or more applications of the map."""
    like, chain = model.distance_mean, loss.n_chain
    held = Paths.of(lesson.validation, model.step_fs).cast(like.dtype, str(like.device))
    held = held.upto(chain)

    def sample(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return loss.sample(settings.batch_size, generator)

    def validate(network: nn.Module) -> dict[str, float]:
        got = predicted(_our(network), held, loss.graph)
        errors = loss.errors(*got, held.positions[:, 1:], held.velocities[:, 1:])
        measures = segment_measures(_our(network), held, loss.graph)
        return {"score": float(sum(errors)) ** 0.5, **measures}

    return fit(
        model,
        sample,
        loss,
        validate,
        settings,
        folder,
        resume=resume,
        description=f"segments x{chain}",
    )


def card_measures(model: HamiltonianEGNO, graph: PairGraph, lesson: Lesson) -> dict[str, float]:
    """Measure the trained network on the test windows.

    Args:
        model: the trained network.
        graph: the molecule's pairs.
        lesson: gives the test windows and the potential.
    """
    own, device = model.distance_mean.dtype, str(model.distance_mean.device)
    paths = Paths.of(lesson.test, model.step_fs)
    measures = segment_measures(model, paths.cast(own, device), graph)
    if lesson.potential is not None:
        errors = total_energy_errors_eV(model, paths, graph, lesson.potential).abs()
        at = f"{paths.n_steps * model.step_fs:g}fs"
        measures[f"total_energy_error_rms_eV_{at}"] = float(errors.square().mean().sqrt())
        measures[f"total_energy_error_p999_eV_{at}"] = float(torch.quantile(errors, 0.999))
    return measures
