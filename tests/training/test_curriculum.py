from pathlib import Path

import pytest
import torch

from egno_md.bundle import load_bundle
from egno_md.config import TrainConfig
from egno_md.data.windows import Windows, save_windows
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.learned import LearnedPropagator
from egno_md.state import Molecule, State, maxwell_boltzmann
from egno_md.training.curriculum import stage_scales, train_egno
from tests.training.springs import Springs

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
POSITIONS = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double()
SPRINGS = Springs(State.at_rest(WATER, POSITIONS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    n = 256
    g = torch.Generator().manual_seed(0)
    state = State(WATER, POSITIONS.repeat(n, 1, 1), maxwell_boltzmann(WATER, n, 400.0, g))
    thermal = Langevin(
        SPRINGS,
        timestep_fs=1.0,
        frame_interval_fs=400.0,
        n_frames=1,
        temperature_K=400.0,
        friction_per_ps=20.0,
        generator=g,
    )
    state = thermal.advance(state).last
    dynamics = VelocityVerlet(SPRINGS, timestep_fs=0.5, frame_interval_fs=4.0, n_frames=2)
    segment = dynamics.advance(state)
    windows = Windows(
        WATER,
        state.positions,
        state.velocities,
        segment.times_fs - state.time_fs,
        segment.positions,
        segment.velocities,
        trajectory=torch.arange(n),
    )
    path = tmp_path_factory.mktemp("windows") / "water.safetensors"
    save_windows(path, windows)
    return path


def job(data: Path, folder: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "kind": "egno",
            "data": (str(data),),
            "horizon_fs": 8.0,
            "frame_interval_fs": 4.0,
            "chain": (1, 2),
            "chain_steps": (200, 20),
            "chain_learning_rates": (1e-2, 1e-3),
            "n_hidden": 16,
            "n_vectors": 2,
            "n_layers": 1,
            "batch_size": 16,
            "compile": "never",
            "ema_decay": 0.9,
            "warmup_steps": 5,
            "validate_every": 20,
            "checkpoint_every": 10,
            "n_threads": 1,
            "out": str(folder / "water.bundle"),
        }
        | changes
    )


def test_curriculum_learns_and_writes_a_bundle(data: Path, tmp_path: Path) -> None:
    path = train_egno(job(data, tmp_path), "egno-md train water.toml")
    bundle = load_bundle(path, kind="egno")
    assert bundle.card.horizon_fs == 8.0
    assert bundle.card.training["command"] == "egno-md train water.toml"
    curve = bundle.card.training["learning_curve"]
    assert "position_error_over_displacement_4fs" in curve[-1]
    assert 0.0 < curve[-1]["cpu_minutes"] <= bundle.card.training["cpu_seconds"] / 60 + 0.01
    measured = bundle.card.held_out
    # Standing still scores 1; one minute of one spring system must beat it clearly.
    assert measured["position_error_over_displacement_4fs"] < 0.25
    assert measured["position_error_over_displacement_8fs"] < 0.4
    propagator = LearnedPropagator.from_bundle(bundle, WATER)
    assert propagator.n_frames == 2


def test_finished_stages_are_kept_on_resume(data: Path, tmp_path: Path) -> None:
    short = {"chain_steps": (20, 20)}
    whole = load_bundle(train_egno(job(data, tmp_path / "a", **short)))
    work = str(tmp_path / "w")
    # The first run does the first stage alone, the second goes on to the other.
    first = {"chain": (1,), "chain_steps": (20,), "chain_learning_rates": (1e-2,)}
    train_egno(job(data, tmp_path / "b", **first, work=work))
    again = load_bundle(train_egno(job(data, tmp_path / "c", **short, work=work, resume=True)))
    for name, weight in whole.weights.items():
        assert torch.equal(weight, again.weights[name]), name


def test_lengths_of_the_curriculum_must_match(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need as many entries"):
        job(data, tmp_path, chain_steps=(1, 2, 3))


def test_a_repeated_last_chain_is_thermal(data: Path, tmp_path: Path) -> None:
    rates = {"chain_steps": (1, 1, 1), "chain_learning_rates": (1e-3,) * 3}
    assert stage_scales(job(data, tmp_path)) == ["change", "change"]
    repeated = job(data, tmp_path, chain=(1, 2, 1), **rates)
    assert stage_scales(repeated) == ["change", "change", "thermal"]
    given = job(data, tmp_path, chain=(1, 2, 1), chain_scales=("change",) * 3, **rates)
    assert stage_scales(given) == ["change"] * 3


def test_windows_that_a_later_stage_cannot_use_are_named_before_training(
    data: Path, tmp_path: Path
) -> None:
    later = {"chain": (1, 4), "chain_steps": (5, 5), "chain_learning_rates": (1e-3, 1e-3)}
    with pytest.raises(ValueError, match=r"cover 2 steps .* a chain of 4 needs longer"):
        train_egno(job(data, tmp_path, **later))
    with pytest.raises(ValueError, match="no frame 3 fs after the start; a network with a step"):
        train_egno(job(data, tmp_path, step_fs=3.0))
    assert not list(tmp_path.rglob("log.jsonl"))
