"""Wrong input gives one line that names the cause, a code that is not 0, and loses nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from egno_md.bundle import BundleCard, build_model, load_bundle, save_bundle
from egno_md.cli import main, verbs
from egno_md.models.egno import EGNO
from egno_md.models.escn_md import ESCNMD

GOOD = "3\n\nO 0 0 0\nH 0 0.757 0.587\nH 0 -0.757 0.587\n"
STRUCTURES = {
    "NaN atom": (GOOD.replace("-0.757", "nan"), "atom 2"),
    "overlapping atoms": (GOOD.replace("-0.757", "0.757"), "atoms 1 (H) and 2 (H) are 0 Å apart"),
    "unknown element": (GOOD.replace("H 0 -", "Qq 0 -"), "'Qq'"),
    "element not trained on": (GOOD.replace("O", "S"), "atom 0 is S"),
    "no atoms": ("0\n\n", "no atoms"),
    "empty file": ("", "empty"),
    "no structure": ("some text\n", "ASE cannot read it"),
}
needs_run = pytest.mark.skipif("run" not in verbs(), reason="this build has no verb run")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a water molecule, an eSCN bundle, an EGNO bundle and a damaged one."""
    (tmp_path / "water.xyz").write_text(GOOD)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        escn = ESCNMD(
            elements=[1, 8],
            max_degree=1,
            max_order=1,
            channels=4,
            hidden_channels=4,
            n_layers=1,
            n_radial=4,
            radial_hidden=8,
        )
        egno = EGNO(1, 1, 1, 8)
    made = (
        ("small-escn", "escn", escn, {"cutoff_A": 5.0}),
        ("small-egno", "egno", egno, {"horizon_fs": 8.0, "frame_interval_fs": 1.0}),
        ("damaged", "escn", escn, {"cutoff_A": 5.0}),
    )
    for name, kind, model, more in made:
        card = BundleCard(
            name=name,
            kind=kind,
            architecture=model.architecture(),
            elements=[1, 8],
            level_of_theory="made up",
            temperature_range_K=(200.0, 900.0),
            training={"data": "none"},
            held_out={},
            citation="nobody",
            **more,
        )
        save_bundle(tmp_path / f"{name}.bundle", card, model.state_dict())
    weights = tmp_path / "damaged.bundle" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    return tmp_path


def snapshot(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def refused(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a verb that must refuse; return its line."""
    before = snapshot(folder)
    code = main(argv)
    printed = capsys.readouterr()
    after = snapshot(folder)
    assert code == 2, (code, printed)
    lines = [line for line in printed.err.splitlines() if line.strip()]
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("egno-md: error: ")
    assert before == {name: after.get(name) for name in before}, "a file was changed or lost"
    return lines[0]


def run_words(folder: Path, *more: str) -> list[str]:
    """A short classical run that would work if nothing in `more` were wrong."""
    return [
        *("run", str(folder / "water.xyz"), "--mode", "classical"),
        *("--guard", str(folder / "small-escn.bundle"), "--n-replicas", "1", "--n-threads", "1"),
        *("--length-ps", "0.002", "--equilibration-ps", "0", "--no-report"),
        *("--out", str(folder / "out"), *more),
    ]


def train_words(folder: Path, *more: str) -> list[str]:
    """A short training on frames that the small eSCN makes, likewise."""
    return [
        *("train", "--kind", "escn", "--potential", str(folder / "small-escn.bundle")),
        *("--structure", str(folder / "water.xyz"), "--n-samples", "4", "--n-steps", "1"),
        *("--out", str(folder / "new.bundle"), *more),
    ]


def test_inspect_reads_the_good_bundles(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("small-escn", "small-egno"):
        assert main(["inspect", str(folder / f"{name}.bundle")]) == 0
        assert name in capsys.readouterr().out
    assert isinstance(build_model(load_bundle(folder / "small-egno.bundle")), EGNO)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("damaged.bundle", ("weights.safetensors", "sha256")),
        ("missing.bundle", ("missing.bundle",)),
        ("water.xyz", ("water.xyz", "is a file")),
        (".", ("bundle.json",)),
    ],
)
def test_inspect_refuses(
    name: str, words: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["inspect", str(folder / name)], folder, capsys)
    assert all(word in line for word in words), line


@needs_run
def test_a_refused_run_leaves_the_finished_one_as_it_was(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = run_words(folder)
    assert main(words) == 0, capsys.readouterr().err
    capsys.readouterr()
    made = [name for name in snapshot(folder) if name.startswith(str(folder / "out"))]
    assert made
    for wrong in (["--guard", str(folder / "damaged.bundle")], ["--temperature-K", "-1"], []):
        refused([*words, *wrong], folder, capsys)
    (folder / "water.xyz").write_text(STRUCTURES["NaN atom"][0])
    refused(words, folder, capsys)


@pytest.mark.parametrize("verb", ["inspect", "train", pytest.param("run", marks=needs_run)])
def test_an_unknown_key_or_option_names_itself(
    verb: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = folder / "job.toml"
    job.write_text("n_replica = 3\n")
    assert "'n_replica'" in refused([verb, str(job)], folder, capsys)
    assert "--n-replicsa" in refused([verb, "--n-replicsa", "3"], folder, capsys)
    job.write_text("seed = = 3\n")
    assert "not valid TOML" in refused([verb, str(job)], folder, capsys)
    assert "nothing.toml" in refused([verb, str(folder / "nothing.toml")], folder, capsys)


@pytest.mark.parametrize(
    ("verb", "how"),
    [("train", how) for how in STRUCTURES]
    + [pytest.param("run", how, marks=needs_run) for how in STRUCTURES],
)
def test_a_wrong_structure_is_named(
    verb: str, how: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, words = STRUCTURES[how]
    (folder / "water.xyz").write_text(text)
    argv = run_words(folder) if verb == "run" else train_words(folder)
    assert words in refused(argv, folder, capsys)


@pytest.mark.parametrize("verb", ["train", pytest.param("run", marks=needs_run)])
def test_a_missing_structure_is_named(
    verb: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "water.xyz").unlink()
    argv = run_words(folder) if verb == "run" else train_words(folder)
    assert "water.xyz" in refused(argv, folder, capsys)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("small-egno", ("egno", "escn")),
        ("damaged", ("weights.safetensors", "sha256")),
        ("missing", ("missing.bundle",)),
    ],
)
@pytest.mark.parametrize("verb", ["train", pytest.param("run", marks=needs_run)])
def test_a_wrong_potential_is_named(
    verb: str,
    name: str,
    words: tuple[str, ...],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(folder / f"{name}.bundle")
    argv = (
        run_words(folder, "--guard", path)
        if verb == "run"
        else train_words(folder, "--potential", path)
    )
    line = refused(argv, folder, capsys)
    assert all(word in line for word in words), line


@needs_run
@pytest.mark.parametrize("name", ["small-escn", "small-egno", "damaged", "missing"])
def test_a_wrong_propagator_is_named(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / f"{name}.bundle")
    argv = run_words(folder, "--mode", "surrogate", "--propagator", path)
    line = refused(argv, folder, capsys)
    assert name in line or "weights.safetensors" in line


@needs_run
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--temperature-K", "nan"),
        ("--temperature-K", "-5"),
        ("--length-ps", "0"),
        ("--timestep-fs", "inf"),
        ("--n-replicas", "0"),
        ("--device", "abacus"),
        ("--mode", "magic"),
    ],
)
def test_a_wrong_value_is_named(
    option: str, value: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(run_words(folder, option, value), folder, capsys)
    assert option.removeprefix("--").replace("-", "_") in line or value in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"F": np.full((4, 3, 3), np.nan)}, "finite"),
        ({"R": np.full((4, 3, 3), np.inf)}, "finite"),
        ({"z": np.array([8, 1, 0])}, "atom"),
        ({"F": np.zeros((4, 2, 3))}, "shape"),
        ({"E": np.array([object()] * 4, dtype=object)}, "npz"),
    ],
)
def test_wrong_frames_are_named(
    change: dict[str, np.ndarray], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = {
        "z": np.array([8, 1, 1]),
        "R": np.random.default_rng(0).normal(0, 2, (4, 3, 3)),
        "E": np.zeros(4),
        "F": np.zeros((4, 3, 3)),
    }
    np.savez(folder / "frames.npz", **(frames | change))
    argv = ["train", "--kind", "escn", "--data", str(folder / "frames.npz"), "--energy-unit", "eV"]
    line = refused([*argv, "--out", str(folder / "new.bundle")], folder, capsys)
    assert "frames.npz" in line
    assert words in line


def test_the_process_ends_with_the_code_and_no_traceback(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "egno_md", "inspect", str(folder / "damaged.bundle")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "weights.safetensors" in done.stderr
