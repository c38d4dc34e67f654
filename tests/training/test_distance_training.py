"""A distance network learns springs: from their dynamics and its own, or from files."""

from __future__ import annotations

import json

import pytest
import torch

from egno_md.bundle import build_model, load_bundle
from egno_md.config import DISTANCE_DEFAULTS, TrainConfig, make_job
from egno_md.data.frame_files import save_frames
from egno_md.data.frames import LabelledFrames
from egno_md.data.structures import read_structure
from egno_md.propagators.distance_potential import DistancePotential
from egno_md.training import distance_training
from egno_md.training.distance_training import held_out_errors, train_distance
from tests.training.springs import Springs

WATER = """3
water
O 0.0 0.0 0.0
H 0.96 0.0 0.0
H -0.24 0.93 0.0
"""


@pytest.fixture
def water(tmp_path):
    file = tmp_path / "water.xyz"
    file.write_text(WATER)
    return file


@pytest.fixture
def job(tmp_path, water, monkeypatch):
    springs = Springs.of(str(water))
    monkeypatch.setattr(distance_training, "open_potential", lambda name, structure: springs)

    def of(**changes):
        given = {
            "kind": "distance",
            "own_interval_fs": 40.0,
            "potential": "springs",
            "structure": str(water),
            "n_hidden": 16,
            "n_samples": 100,
            "n_validation": 30,
            "n_test": 60,
            "n_steps": 240,
            "batch_size": 32,
            "sampling_replicas": 4,
            "temperatures_K": (300.0, 450.0),
            "validate_every": 100,
            "checkpoint_every": 100,
            "warmup_steps": 20,
            "out": str(tmp_path / "water.bundle"),
        }
        return make_job(TrainConfig, given | changes)

    return of


def test_it_learns_springs_and_says_what_it_misses(job, water):
    bundle = load_bundle(train_distance(job(n_steps=360), "a command"), kind="distance")
    assert bundle.card.held_out["force_missed_percent"] < 15.0
    assert bundle.card.architecture["numbers"] == [8, 1, 1]
    assert bundle.card.training["n_test"] == 60
    assert bundle.card.training["command"] == "a command"
    assert bundle.card.training["sampling_cpu_seconds"] >= 0
    # The errors on the card are those of the network that was kept, on frames never seen.
    springs, model = Springs.of(str(water)), build_model(bundle)
    start = read_structure(str(water))
    noise = torch.randn(50, 3, 3, generator=torch.Generator().manual_seed(9)).double()
    x = start.positions.double() + 0.04 * noise
    frames = LabelledFrames.stack(
        start.molecule.numbers,
        x,
        springs.energies(start.with_(positions=x, velocities=torch.zeros_like(x))),
        springs.forces(x),
    )
    assert held_out_errors(model, frames.dense())["force_missed_percent"] < 20.0


def test_several_molecules_are_learned_in_parts(job, tmp_path):
    atoms = WATER.splitlines()[2:]
    moved = [f"{a} {float(x) + 3.0} {y} {z}" for a, x, y, z in map(str.split, atoms)]
    file = tmp_path / "two.xyz"
    file.write_text("\n".join(["6", "two waters", *atoms, *moved]) + "\n")
    with_two = {"structure": str(file), "out": str(tmp_path / "two.bundle"), "n_steps": 300}
    with pytest.MonkeyPatch.context() as changed:
        springs = Springs.of(str(file))
        changed.setattr(distance_training, "open_potential", lambda name, structure: springs)
        bundle = load_bundle(train_distance(job(**with_two, n_samples=500)), kind="distance")
    assert bundle.card.architecture["name"] == "local-distance-network"
    assert bundle.card.held_out["force_missed_percent"] < 30.0
    model = build_model(bundle)
    assert len(model.first_weight) == 2  # one water, and two of them
    start = read_structure(str(file))
    potential = DistancePotential(bundle)
    assert torch.isfinite(potential.energies(start)).all()


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(job, tmp_path, monkeypatch):
    whole = load_bundle(train_distance(job()), kind="distance")
    assert len(list((tmp_path / "water.work").glob("round-*"))) == 4
    fit, calls = distance_training.fit, []

    def stopped(*args, **more):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*args, **more)

    part = job(out=str(tmp_path / "part.bundle"))
    with monkeypatch.context() as changed:
        changed.setattr(distance_training, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_distance(part)
    again = load_bundle(train_distance(part.model_copy(update={"resume": True})))
    assert all(torch.equal(v, again.weights[k]) for k, v in whole.weights.items())


def test_processor_time_is_shared_among_the_rounds(job):
    bundle = load_bundle(train_distance(job(cpu_minutes=1e-9)))
    assert bundle.card.training["steps"] == [1, 1, 1, 1]


def test_files_of_frames_do_as_well(job, tmp_path, water):
    springs, start = Springs.of(str(water)), read_structure(str(water))
    noise = torch.randn(90, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    x = start.positions.double() + 0.05 * noise
    energies = springs.energies(start.with_(positions=x, velocities=torch.zeros_like(x)))
    frames = LabelledFrames.stack(start.molecule.numbers, x, energies, springs.forces(x))
    save_frames(tmp_path / "water.npz", frames)
    given = {"potential": (), "structure": (), "data": (str(tmp_path / "water.npz"),)}
    bundle = load_bundle(train_distance(job(**given, split="shuffled", n_steps=300)))
    assert bundle.card.held_out["force_missed_percent"] < 25.0
    assert (bundle.card.training["n_frames"], bundle.card.training["n_test"]) == (72, 9)


def test_frames_of_several_molecules_are_refused(job, tmp_path):
    one = LabelledFrames.stack(
        torch.tensor([1, 1]),
        torch.tensor([[[0.0, 0, 0], [0, 0, 0.7]]]),
        torch.zeros(1),
        torch.zeros(1, 2, 3),
    )
    two = LabelledFrames.stack(
        torch.tensor([1, 9]),
        torch.tensor([[[0.0, 0, 0], [0, 0, 0.9]]]),
        torch.zeros(1),
        torch.zeros(1, 2, 3),
    )
    save_frames(tmp_path / "both.npz", LabelledFrames.join([one, two] * 10))
    given = {"potential": (), "structure": (), "data": (str(tmp_path / "both.npz"),)}
    with pytest.raises(ValueError, match="of one molecule without a cell"):
        train_distance(job(**given, split="shuffled"))


def test_a_cell_is_refused(job, tmp_path):
    file = tmp_path / "cell.xyz"
    lattice = 'Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T" Properties=species:S:1:pos:R:3'
    file.write_text(WATER.replace("water", lattice))
    with pytest.raises(ValueError, match="without a periodic cell"):
        train_distance(job(structure=str(file)))


def test_its_own_dynamics_may_fail_and_the_potential_s_takes_over(job, monkeypatch, capsys):
    sample = distance_training.sample_frames

    def failing(*args, mover, **more):
        if mover is not None:
            raise ValueError("all replicas broke a bond")
        return sample(*args, mover=mover, **more)

    monkeypatch.setattr(distance_training, "sample_frames", failing)
    assert train_distance(job(n_steps=40)).is_dir()
    said = capsys.readouterr().err
    assert "the network's own dynamics failed (all replicas broke a bond)" in said
    # So few steps make a poor copy, which is said, too.
    assert "warning: the copy misses" in said


def test_defaults_of_the_kind_give_way_to_what_is_said():
    given = {"kind": "distance", "data": ("x.npz",)}
    config = make_job(TrainConfig, given | {"n_steps": 7})
    assert config.n_steps == 7
    assert config.batch_size == DISTANCE_DEFAULTS["batch_size"]
    assert json.loads(config.model_dump_json())["optimizer"] == "soap"
    assert make_job(TrainConfig, {"data": ("x.npz",)}).batch_size == 8


def test_frames_of_atoms_within_one_another_are_left_out(job, monkeypatch):
    monkeypatch.setattr(distance_training, "_LARGEST_FORCE", 1e-3)
    said = r"([0-9]+) of \1 frames .* or a force of more than 0.001 eV/Å"
    with pytest.raises(ValueError, match=said):
        train_distance(job(n_samples=400))
