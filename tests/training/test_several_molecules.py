"""One network for several molecules, measured on one it never saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from egno_md.bundle import load_bundle
from egno_md.config import TrainConfig
from egno_md.propagators.learned import LearnedPropagator
from egno_md.training import lesson as lesson_module
from egno_md.training.curriculum import train_egno
from egno_md.training.lesson import Lesson, names_of, read_lessons
from egno_md.training.lesson_fits import drawn, joined_measures
from tests.training.springs import Springs

STRUCTURES = {
    "water": "3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n",
    "methanol": (
        "6\n\nC -0.05 0.66 0\nO -0.05 -0.76 0\nH -1.09 0.98 0\nH 0.44 1.07 0.89\n"
        "H 0.44 1.07 -0.89\nH 0.86 -1.06 0\n"
    ),
    "methane": (
        "5\n\nC 0 0 0\nH 0.63 0.63 0.63\nH -0.63 -0.63 0.63\nH -0.63 0.63 -0.63\n"
        "H 0.63 -0.63 -0.63\n"
    ),
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, text in STRUCTURES.items():
        (tmp_path / f"{name}.xyz").write_text(text)
    monkeypatch.setattr(lesson_module, "open_potential", lambda name, file: Springs.of(file))
    return {name: str(tmp_path / f"{name}.xyz") for name in STRUCTURES}


def job(folder: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "kind": "egno",
            "n_samples": 96,
            "n_validation": 16,
            "n_test": 16,
            "temperatures_K": (300.0,),
            "equilibration_fs": 50.0,
            "sampling_replicas": 16,
            "horizon_fs": 4.0,
            "frame_interval_fs": 4.0,
            "chain": (0, 1),
            "chain_steps": (300, 20),
            "chain_learning_rates": (1e-2, 3e-4),
            "n_hidden": 16,
            "n_vectors": 2,
            "n_layers": 1,
            "batch_size": 8,
            "compile": "never",
            "ema_decay": 0.9,
            "warmup_steps": 5,
            "validate_every": 50,
            "n_threads": 1,
            "out": str(folder / "several.bundle"),
        }
        | changes
    )


def test_two_molecules_teach_one_network(files: dict[str, str], tmp_path: Path) -> None:
    config = job(
        tmp_path,
        potential=("springs", "springs"),
        structure=(files["water"], files["methanol"]),
        test_potential="springs",
        test_structure=files["methane"],
    )
    bundle = load_bundle(train_egno(config), kind="egno")
    card = bundle.card
    assert [name.split(":")[0] for name in card.molecules] == ["H2O", "CH4O"]
    assert card.elements == [1, 6, 8]
    assert card.training["n_windows"] == 192
    assert card.training["structure"] == ["water.xyz", "methanol.xyz"]
    held = card.held_out
    error = "position_error_over_displacement_4fs"
    # Standing still scores 1.
    assert held[f"water/{error}"] < 0.5
    assert held[f"methanol/{error}"] < 0.5
    assert 0 < held[f"methane (never trained on)/{error}"] < 1
    assert "score" not in held
    for lesson in read_lessons(config):
        LearnedPropagator.from_bundle(bundle, lesson.molecule)


def test_unknown_pairs_are_named_before_training(files: dict[str, str], tmp_path: Path) -> None:
    config = job(
        tmp_path,
        potential="springs",
        structure=files["water"],
        test_potential=("springs",),
        test_structure=(files["methane"],),
    )
    with pytest.raises(ValueError, match="atomic number 6"):
        train_egno(config)
    assert not list((tmp_path / "several.work").glob("stage-*"))


def test_lists_must_be_of_one_length(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="potential and structure go together, got 2 and 1"):
        job(tmp_path, potential=("a", "b"), structure=files["water"])
    with pytest.raises(ValueError, match="test_potential and test_structure go together"):
        job(tmp_path, potential="a", structure=files["water"], test_potential="b")
    with pytest.raises(ValueError, match="eSCN potential learns from one"):
        job(tmp_path, kind="escn", potential=("a", "b"), structure=(files["water"],) * 2)


def test_forces_need_a_teacher(files: dict[str, str], tmp_path: Path) -> None:
    (taught,) = read_lessons(job(tmp_path, potential="springs", structure=files["water"]))
    bare = Lesson("water", taught.training, taught.validation, taught.test)
    assert bare.force_frames is None
    assert taught.force_frames is not None
    shown, held = taught.force_frames
    assert shown.positions.shape == (192, 3, 3)
    assert held.forces.shape == (32, 3, 3)
    again = Springs.of(files["water"]).forces(shown.positions)
    torch.testing.assert_close(shown.forces, again)


def test_names_and_joined_measures() -> None:
    assert names_of(["a/water.xyz", "b/methane.pdb"]) == ["water", "methane"]
    assert names_of(["a/water.xyz", "b/water.xyz"]) == ["water-1", "water-2"]
    parts = [{"score": 1.0, "x": 2.0}, {"score": 3.0, "x": 4.0}]
    assert joined_measures(["a"], parts[:1]) == parts[0]
    joined = joined_measures(["a", "b"], parts)
    assert joined["score"] == 2.0
    assert (joined["a/x"], joined["b/x"]) == (2.0, 4.0)


def test_every_molecule_is_drawn_and_one_alone_draws_nothing() -> None:
    g = torch.Generator().manual_seed(0)
    before = g.get_state()
    assert drawn(["only"], g) == "only"
    assert torch.equal(g.get_state(), before)
    picks = [drawn("abc", g) for _ in range(300)]
    assert min(picks.count(letter) for letter in "abc") > 70
