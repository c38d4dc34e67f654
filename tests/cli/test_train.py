"""`egno-md train` from data to a bundle that loads, and one line for what is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from egno_md.bundle import build_model, load_bundle
from egno_md.cli import main
from egno_md.cli.train import cut_stores
from egno_md.config import TrainConfig
from egno_md.data.frame_files import load_frames, save_frames
from egno_md.data.frames import LabelledFrames
from egno_md.data.window_files import read_windows
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule, State
from egno_md.training.force_matching import held_out_measures
from egno_md.training.frame_graphs import FrameGraphs
from egno_md.training.log import read_log
from egno_md.training.loop import LOG

torch.set_num_threads(1)

TINY = [
    "--kind", "escn", "--max-degree", "1", "--max-order", "1", "--channels", "4",
    "--hidden-channels", "4", "--radial-hidden", "8", "--n-layers", "1", "--n-steps", "12",
    "--batch-size", "4", "--validate-every", "4", "--checkpoint-every", "4", "--log-every", "2",
    "--warmup-steps", "2", "--n-threads", "1",
]  # fmt: skip


@pytest.fixture
def frames_file(tmp_path):
    """Frames of water with springs on its bonds, in ten trajectories."""
    rng = torch.Generator().manual_seed(0)
    base = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], dtype=torch.float64)
    x = base + 0.05 * torch.randn(40, 3, 3, generator=rng, dtype=torch.float64)
    x.requires_grad_(True)
    arms = torch.linalg.vector_norm(x[:, 1:] - x[:, :1], dim=-1)
    energies = 5.0 * (arms - 0.96).square().sum(-1)
    (slope,) = torch.autograd.grad(energies.sum(), x)
    frames = LabelledFrames.stack(
        torch.tensor([8, 1, 1]),
        x.detach(),
        energies.detach() - 2000.0,
        -slope,
        trajectory=torch.arange(10).repeat_interleave(4),
    )
    save_frames(tmp_path / "water.npz", frames)
    return tmp_path / "water.npz"


def test_escn_from_a_file_to_a_bundle(tmp_path, frames_file, capsys):
    out = tmp_path / "water.bundle"
    words = [*TINY, "--data", str(frames_file), "--out", str(out), "--level-of-theory", "springs"]
    assert main(["train", *words]) == 0
    assert str(out) in capsys.readouterr().out
    bundle = load_bundle(out, kind="escn")
    card = bundle.card
    assert card.elements == [1, 8]
    assert card.training["n_frames"] == 32
    assert card.training["n_test"] == 4
    assert card.training["sha256"] != card.training["test_sha256"]
    assert card.training["cpu_seconds"] > 0
    assert str(tmp_path) not in json.dumps(card.model_dump(mode="json"))
    assert "--data water.npz" in card.training["command"]
    # The numbers in the card are those of the weights in the bundle on the test frames.
    frames = load_frames(frames_file)
    model = build_model(bundle)
    in_card = card.held_out["force_mae_kcal_per_mol_A"]
    on_trajectories = []
    for k in range(10):
        graphs = FrameGraphs(frames.select(frames.trajectory == k), card.cutoff_A)
        on_trajectories.append(held_out_measures(model, graphs)["force_mae_kcal_per_mol_A"])
    assert min(abs(a - in_card) for a in on_trajectories) < 1e-6 * in_card
    steps = [row["step"] for row in read_log(tmp_path / "water.work" / LOG)]
    assert steps == sorted(steps)
    assert steps[-1] == 12


def save_crystals(path):
    """Two-atom cells with stresses, in ten trajectories."""
    rng = torch.Generator().manual_seed(0)
    n, cell = 40, 3.4 * torch.eye(3, dtype=torch.float64)
    places = torch.tensor([[0.0, 0, 0], [1.7, 1.7, 1.7]], dtype=torch.float64)
    stress = 0.02 * torch.randn(n, 3, 3, generator=rng, dtype=torch.float64)
    frames = LabelledFrames.stack(
        torch.tensor([3, 3]),
        places + 0.05 * torch.randn(n, 2, 3, generator=rng, dtype=torch.float64),
        torch.randn(n, generator=rng),
        torch.randn(n, 2, 3, generator=rng),
        trajectory=torch.arange(10).repeat_interleave(4),
        cell=cell.repeat(n, 1, 1),
        pbc=torch.ones((n, 3), dtype=torch.bool),
        stress=0.5 * (stress + stress.mT),
    )
    save_frames(path, frames)


def test_escn_learns_stresses(tmp_path):
    save_crystals(tmp_path / "li.npz")
    measured = []
    for weight in ("0", "100"):
        out = tmp_path / f"li{weight}.bundle"
        words = [*TINY, "--data", str(tmp_path / "li.npz"), "--cutoff-A", "4", "--out", str(out)]
        assert main(["train", *words, "--stress-weight", weight]) == 0
        measured.append(load_bundle(out, kind="escn").card.held_out["stress_mae_GPa"])
        rows = read_log(tmp_path / f"li{weight}.work" / LOG)
        assert ("virial_error_eV_per_atom" in rows[0]) is (weight == "100")
    assert measured[0] != measured[1]


def test_wrong_stress_and_compile_settings_are_refused(tmp_path, frames_file, capsys):
    words = [*TINY, "--data", str(frames_file), "--out", str(tmp_path / "a.bundle")]
    assert main(["train", *words, "--stress-weight", "1"]) != 0
    assert "lacks stresses" in capsys.readouterr().err
    save_crystals(tmp_path / "li.npz")
    words = [*TINY, "--data", str(tmp_path / "li.npz"), "--out", str(tmp_path / "b.bundle")]
    assert main(["train", *words, "--stress-weight", "1", "--compile", "always"]) != 0
    assert "no stress_weight" in capsys.readouterr().err


def test_resumed_bundle_has_the_same_weights(tmp_path, frames_file):
    words = [*TINY, "--data", str(frames_file)]
    assert main(["train", *words, "--out", str(tmp_path / "a.bundle")]) == 0
    stopped = ["--out", str(tmp_path / "b.bundle"), "--cpu-minutes", "1e-9"]
    assert main(["train", *words, *stopped]) == 0
    early = load_bundle(tmp_path / "b.bundle")
    assert early.card.training["steps"] == [1]
    assert main(["train", *words, "--out", str(tmp_path / "b.bundle"), "--resume"]) == 0
    whole, resumed = load_bundle(tmp_path / "a.bundle"), load_bundle(tmp_path / "b.bundle")
    assert whole.card.weights_sha256 == resumed.card.weights_sha256
    assert whole.card.held_out == resumed.card.held_out
    assert early.card.weights_sha256 != resumed.card.weights_sha256


def test_toml_file_and_option_after_it(tmp_path, frames_file):
    (tmp_path / "job.toml").write_text(
        f'kind = "escn"\ndata = ["{frames_file}"]\nn_steps = 500000\nmax_degree = 1\n'
        "max_order = 1\nchannels = 4\nhidden_channels = 4\nn_layers = 1\nvalidate_every = 2\n"
        f'out = "{tmp_path / "t.bundle"}"\n'
    )
    assert main(["train", str(tmp_path / "job.toml"), "--n-steps", "2", "--n-threads", "1"]) == 0
    assert (
        load_bundle(tmp_path / "t.bundle")
        .card.training["command"]
        .startswith("egno-md train job.toml --n-steps 2")
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "escn"], "data"),
        (["--kind", "escn", "--data", "none.npz"], "none.npz"),
        (["--kind", "escn", "--potential", "sgdml:none.npz"], "structure file to start from"),
        (["--kind", "escn", "--n-step", "3"], "did you mean '--n-steps'"),
        (["--kind", "painn"], "kind = 'painn' is not allowed"),
        (["--kind", "escn", "--data", "x.npz", "--learning-rate", "nan"], "learning_rate"),
    ],
)
def test_wrong_input_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("egno-md: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_output_is_checked_before_training(tmp_path, frames_file, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    words = [*TINY, "--data", str(frames_file), "--out"]
    for out, message in (
        (tmp_path / "mine", "files that are not a bundle"),
        (frames_file, "is a file"),
        (tmp_path / "a b.bundle", "cannot name a bundle"),
    ):
        assert main(["train", *words, str(out)]) == 2
        assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "water.npz"]


def test_unknown_unit_is_one_line(tmp_path, capsys):
    np.savez(
        tmp_path / "a.npz",
        z=np.array([1, 1]),
        R=np.zeros((3, 2, 3)),
        E=np.zeros(3),
        F=np.zeros((3, 2, 3)),
    )
    assert main(["train", "--kind", "escn", "--data", str(tmp_path / "a.npz")]) == 2
    assert "its energy unit is not known" in capsys.readouterr().err


def store(path, ensemble):
    from egno_md.trajectories.store import TrajectoryWriter
    from egno_md.trajectories.store_format import StoreHeader

    molecule = Molecule.from_numbers([6, 8])
    start = State.at_rest(molecule, torch.tensor([[0.0, 0, 0], [0, 0, 1.1]], dtype=torch.float64))
    header = StoreHeader(molecule, 1, 1.0, "float64", config={"ensemble": ensemble})
    times = torch.arange(1, 9, dtype=torch.float64)
    x = start.positions[:, None] + 0.01 * times[None, :, None, None]
    made_by = torch.full((1, 8), int(MadeBy.INTEGRATOR), dtype=torch.int8)
    segment = Segment(molecule, times, x, torch.full_like(x, 0.01), made_by)
    with TrajectoryWriter.create(path, header, start, {}) as writer:
        writer.append(segment, {})
    return str(path)


def test_stores_become_windows(tmp_path):
    config = TrainConfig(
        data=(store(tmp_path / "nve.zarr", "nve"), "other.h5"),
        horizon_fs=4.0,
        frame_interval_fs=2.0,
        out=str(tmp_path / "x.bundle"),
    )
    cut = cut_stores(config)
    assert cut.data[1] == "other.h5"
    windows = read_windows(cut.data[0], 4.0, 2.0)
    assert windows.n_windows == 2
    assert windows.positions0[:, 0, 0].tolist() == pytest.approx([0.0, 0.04])
    hot = config.model_copy(update={"data": (store(tmp_path / "nvt.zarr", "nvt"),)})
    with pytest.raises(ValueError, match="made under a thermostat"):
        cut_stores(hot)
