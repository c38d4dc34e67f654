"""Energies beside forces and segments: what they add to a fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from egno_md.config import TrainConfig
from egno_md.state import State
from egno_md.training import lesson as lesson_module
from egno_md.training.curriculum import train_egno
from egno_md.training.energy_loss import EnergyLoss
from egno_md.training.fresh_network import make_network
from egno_md.training.lesson import ForceFrames, read_lessons
from egno_md.training.lesson_pairs import pairs_of
from tests.training.springs import Springs
from tests.training.test_several_molecules import STRUCTURES, job


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    (tmp_path / "water.xyz").write_text(STRUCTURES["water"])
    monkeypatch.setattr(lesson_module, "open_potential", lambda name, file: Springs.of(file))
    return job(
        tmp_path,
        potential="springs",
        structure=str(tmp_path / "water.xyz"),
        chain_steps=(60, 10),
        validate_every=10,
    )


def test_a_constant_does_not_matter(config: TrainConfig) -> None:
    lesson = read_lessons(config.model_copy(update={"chain_energy_weights": (1.0, 0.0)}))[0]
    assert lesson.force_frames is not None
    frames = lesson.force_frames[0]
    assert frames.energies is not None
    springs = lesson.potential
    assert springs is not None
    here = State.at_rest(lesson.molecule, frames.positions)
    assert torch.allclose(frames.energies, springs.energies(here))
    model = make_network(config, [lesson])
    pairs = pairs_of(lesson.molecule, model)
    own = model.potentials(frames.positions.float(), pairs)[:, 0].detach()
    shifted = ForceFrames(frames.positions, frames.forces, None, own.double() - 4000.0)
    loss = EnergyLoss.of(shifted, lesson.molecule, pairs, model.distance_mean)
    assert float(loss(model, torch.arange(20)).detach()) < 1e-5
    assert loss.error_eV(model) < 1e-5
    twice = ForceFrames(frames.positions, frames.forces, None, 2.0 * own.double())
    loss = EnergyLoss.of(twice, lesson.molecule, pairs, model.distance_mean)
    # U - 2 U is as large as half the spread of 2 U, but for what goes with the squared forces.
    squared = (frames.forces.square().sum(-1) / lesson.molecule.masses).sum(-1)
    alike = float(torch.corrcoef(torch.stack((squared, own.double())))[0, 1])
    left = (1.0 - alike**2) ** 0.5
    assert 0.1 < left < 0.99
    assert loss(model, torch.arange(len(own))).item() == pytest.approx(0.5 * left, rel=0.02)
    assert loss.error_eV(model) == pytest.approx(left * float(own.std()), rel=0.02)


def test_a_term_of_the_squared_forces_does_not_matter(config: TrainConfig) -> None:
    lesson = read_lessons(config)[0]
    assert lesson.force_frames is not None
    frames = lesson.force_frames[0]
    model = make_network(config, [lesson])
    pairs = pairs_of(lesson.molecule, model)
    own = model.potentials(frames.positions.float(), pairs)[:, 0].detach().double()
    squared = (frames.forces.square().sum(-1) / lesson.molecule.masses).sum(-1)

    def error(term: torch.Tensor) -> float:
        shifted = ForceFrames(frames.positions, frames.forces, None, own + 0.3 * term)
        return EnergyLoss.of(shifted, lesson.molecule, pairs, model.distance_mean).error_eV(model)

    assert error(squared) < 1e-4 * float(squared.std())
    assert error(squared.sqrt()) > 1e-2 * float(squared.sqrt().std())


def energy_errors(folder: Path) -> list[float]:
    """Errors of the held-out energies at the validations of both stages, meV."""
    lines = []
    for log in sorted(folder.glob("several.work/stage-*/log.jsonl")):
        lines += [json.loads(line) for line in log.read_text().splitlines()]
    return [line["energy_rms_meV"] for line in lines if "energy_rms_meV" in line]


def test_energies_are_learned_in_every_stage_that_weighs_them(
    config: TrainConfig, tmp_path: Path
) -> None:
    train_egno(config.model_copy(update={"chain_energy_weights": (1.0, 0.5)}))
    errors = energy_errors(tmp_path)
    assert len(errors) == 7
    assert errors[5] < 0.5 * errors[0]
    again = config.model_copy(update={"out": str(tmp_path / "b" / "several.bundle")})
    train_egno(again)
    assert energy_errors(tmp_path / "b") == []


def test_what_has_no_energies_is_refused(config: TrainConfig) -> None:
    lesson = read_lessons(config)[0]
    assert lesson.force_frames is not None
    assert lesson.force_frames[0].energies is None
    model = make_network(config, [lesson])
    pairs = pairs_of(lesson.molecule, model)
    with pytest.raises(ValueError, match="only where a potential makes the data"):
        EnergyLoss.of(lesson.force_frames[0], lesson.molecule, pairs, model.distance_mean)
    with pytest.raises(ValueError, match="need as many entries"):
        TrainConfig.model_validate(config.model_dump() | {"chain_energy_weights": (1.0,)})
    with pytest.raises(ValueError, match="must not be negative"):
        TrainConfig.model_validate(config.model_dump() | {"chain_energy_weights": (1.0, -1.0)})
