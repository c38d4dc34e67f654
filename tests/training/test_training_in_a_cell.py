"""A crystal teaches a network: windows, forces and graphs in a periodic cell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase.build import bulk
from ase.io import write

from egno_md.bonds import close_pairs
from egno_md.bundle import load_bundle
from egno_md.config import TrainConfig
from egno_md.data.structures import read_structure
from egno_md.data.windows import Windows, load_windows, save_windows
from egno_md.models.pair_classes import PairGraph
from egno_md.roles import EnergyForces
from egno_md.state import State
from egno_md.training import lesson as lesson_module
from egno_md.training.curriculum import train_egno
from egno_md.training.fresh_network import make_network
from egno_md.training.lesson import Lesson, read_lessons
from egno_md.training.lesson_pairs import CellPairs, advanced, mean_forces, pairs_of
from egno_md.training.segment_loss import Paths, SegmentLoss, predicted


class CellSprings:
    """Springs between nearest neighbours, through the faces of the cell."""

    stiffness = 2.0

    def __init__(self, start: State) -> None:
        assert start.cell is not None
        pbc = start.molecule.pbc
        self.pairs, _ = close_pairs(start.positions[0], 3.0, cell=start.cell[0], pbc=pbc)

    def _stretch(self, state: State) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        assert state.cell is not None
        i, j = self.pairs.T
        apart = state.positions[:, j] - state.positions[:, i]
        images = (apart @ torch.linalg.inv(state.cell)).round()
        apart = apart - images @ state.cell
        length = apart.norm(dim=-1)
        return apart, length, length - 2.55

    def energies(self, state: State) -> torch.Tensor:
        return 0.5 * self.stiffness * self._stretch(state)[2].square().sum(-1)

    def evaluate(self, state: State) -> EnergyForces:
        apart, length, stretch = self._stretch(state)
        pull = self.stiffness * (stretch / length)[..., None] * apart
        i, j = self.pairs.T
        found = torch.zeros_like(state.positions).index_add(1, i, pull).index_add(1, j, -pull)
        return EnergyForces(self.energies(state), found)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    write(tmp_path / "crystal.xyz", bulk("Cu", a=3.61, cubic=True).repeat(2), format="extxyz")
    monkeypatch.setattr(
        lesson_module, "open_potential", lambda name, file: CellSprings(read_structure(file))
    )
    return TrainConfig.model_validate(
        {
            "kind": "egno",
            "potential": "springs",
            "structure": str(tmp_path / "crystal.xyz"),
            "n_samples": 16,
            "n_validation": 6,
            "n_test": 6,
            "temperatures_K": (300.0, 500.0),
            "sampling_replicas": 4,
            "sampling_timestep_fs": 5.0,
            "sampling_interval_fs": 50.0,
            "equilibration_fs": 200.0,
            "horizon_fs": 16.0,
            "frame_interval_fs": 8.0,
            "timestep_fs": 2.0,
            "step_fs": 8.0,
            "cutoff_A": 3.4,
            "chain": (0, 1),
            "chain_steps": (60, 10),
            "chain_learning_rates": (1e-2, 1e-3),
            "n_hidden": 8,
            "n_vectors": 2,
            "n_layers": 1,
            "batch_size": 2,
            "compile": "never",
            "ema_decay": 0.8,
            "warmup_steps": 5,
            "validate_every": 30,
            "n_threads": 1,
            "out": str(tmp_path / "crystal.bundle"),
        }
    )


def test_a_crystal_teaches_a_network(job: TrainConfig) -> None:
    bundle = load_bundle(train_egno(job), kind="egno")
    held = bundle.card.held_out
    assert bundle.card.cutoff_A == 3.4
    # Standing still scores 1, free flight of 8 fs about half of that in the velocities.
    assert held["velocity_error_over_change_8fs"] < 0.3
    assert held["position_error_over_displacement_8fs"] < 0.05


def test_data_in_a_cell(job: TrainConfig, tmp_path: Path) -> None:
    (lesson,) = read_lessons(job)
    windows = lesson.training
    assert windows.cell is not None
    assert windows.cell.shape == (16, 3, 3)
    assert windows.molecule.pbc == (True, True, True)
    save_windows(tmp_path / "w.safetensors", windows)
    again = load_windows(tmp_path / "w.safetensors")
    assert again.sha256() == windows.sha256()
    assert again.molecule.pbc == (True, True, True)
    total = windows.energies[:, -1] - windows.energies0
    assert float(total.abs().max()) > 1e-3
    with pytest.raises(ValueError, match="a cell is for periodic systems"):
        Windows(*(getattr(windows, n) for n in ("molecule", "positions0", "velocities0")),
                windows.times_fs, windows.positions, windows.velocities)  # fmt: skip


def network_and_lesson(job: TrainConfig) -> tuple[Lesson, CellPairs, Paths]:
    (lesson,) = read_lessons(job)
    pairs = CellPairs(lesson.molecule)
    return lesson, pairs, Paths.of(lesson.training, 8.0)


def test_images_and_wrapping_do_not_matter(job: TrainConfig) -> None:
    lesson, pairs, paths = network_and_lesson(job)
    model = make_network(job, [lesson]).double().eval()
    assert isinstance(pairs_of(lesson.molecule, model), CellPairs)
    x, v, cell = paths.positions[:3, 0], paths.velocities[:3, 0], paths.cell[:3]
    forces = mean_forces(model, pairs, x, cell)
    assert forces.shape == x.shape
    assert float(forces.sum(1).abs().max()) < 1e-9
    wrapped = x.clone()
    wrapped[:, ::3] += cell[:, None, 0]
    torch.testing.assert_close(mean_forces(model, pairs, wrapped, cell), forces, rtol=0, atol=1e-9)
    # Replicas do not see each other.
    alone = mean_forces(model, pairs, x[1:2], cell[1:2])
    torch.testing.assert_close(alone[0], forces[1], rtol=0, atol=1e-12)
    together = advanced(model, pairs, x, v, 2, cell, 0.3)
    one = advanced(model, pairs, x[1:2], v[1:2], 2, cell[1:2], 0.3)
    assert together[0].shape == (3, 2, 32, 3)
    for whole, part in zip(together, one, strict=True):
        torch.testing.assert_close(part[0], whole[1], rtol=0, atol=1e-10)


def test_few_shapes_are_met(job: TrainConfig) -> None:
    lesson, pairs, paths = network_and_lesson(job)
    model = make_network(job, [lesson])
    loss = SegmentLoss(paths, pairs, 2)
    shapes = set()
    for step in range(12):
        batch = loss.sample(2, torch.Generator().manual_seed(step))
        graph = pairs.graph(model, batch.positions[:, 0], batch.cell, 0.3)
        assert isinstance(graph, PairGraph)
        shapes.add(tuple(graph.pairs.shape))
    assert len(shapes) <= 2


def test_all_windows_are_predicted_once(job: TrainConfig) -> None:
    lesson, pairs, _ = network_and_lesson(job)
    model = make_network(job, [lesson])
    held = Paths.of(lesson.validation, 8.0).cast(torch.float32, "cpu")
    x, v = predicted(model, held, pairs)
    assert x.shape == v.shape == (6, 2, 32, 3)
    last = advanced(
        model.eval(), pairs, held.positions[5:, 0], held.velocities[5:, 0], 2, held.cell[5:], 0.5
    )[0]
    torch.testing.assert_close(x[5], last[0].detach(), rtol=0, atol=1e-4)
