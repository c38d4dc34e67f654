import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch

from egno_md.cli import main
from egno_md.segment import MadeBy
from egno_md.trajectories.store_reader import TrajectoryReader

PROGRAM = "import sys; from egno_md.cli import main; sys.exit(main())"
ARRAYS = ("positions", "velocities", "times_fs", "potential_energies", "made_by")


@pytest.fixture
def words(tiny_guard, tiny_egno):
    """Arguments of a short run."""

    def of(mode, out, *more):
        return [
            *("--example", "ethanol", "--mode", mode, "--out", str(out)),
            *("--guard", str(tiny_guard), "--propagator", str(tiny_egno)),
            *("--n-replicas", "2", "--n-threads", "1", "--length-ps", "0.04"),
            *("--equilibration-ps", "0.004", *more),
        ]

    return of


def arrays(out):
    reader = TrajectoryReader(Path(out) / "trajectory.zarr")
    reader.verify()
    return {name: reader.array(name).tobytes() for name in ARRAYS}, reader.events


def fails(capsys, argv):
    """The one line that a failing command says, without its head."""
    assert main(["run", *argv]) == 2
    said = capsys.readouterr().err
    assert said.startswith("egno-md: error: ")
    assert said.count("\n") == 1
    return said


def test_classical_run_leaves_everything(words, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", *words("classical", out, "--length-ps", "0.06")]) == 0
    said = capsys.readouterr().out
    assert "C2H6O: 0.06 ps x 2 = 0.12 ps in" in said
    assert "by the integrator 100%" in said
    assert "mean temperature" in said
    assert sorted(p.name for p in out.iterdir()) == [
        "report.html",
        "run.json",
        "topology.pdb",
        "trajectory.xtc",
        "trajectory.zarr",
    ]
    read = mdtraj.load(str(out / "trajectory.xtc"), top=str(out / "topology.pdb"))
    reader = TrajectoryReader(out / "trajectory.zarr")
    assert read.n_frames == reader.n_frames == 31
    np.testing.assert_allclose(read.time, np.arange(31) * 0.002, rtol=1e-5)
    np.testing.assert_allclose(read.xyz, reader.array("positions")[0] / 10, atol=5.1e-4)
    record = json.loads((out / "run.json").read_text())
    worth = record["effective_samples"]
    # Two molecules for 60 fs: nothing has moved far, and the run says so.
    assert worth["too_short_to_tell"]
    assert worth["slowest_per_cpu_s"] is None
    assert "per CPU-second" not in said
    assert "too short to tell" in said
    assert "too short to tell" in (out / "report.html").read_text()
    assert record["n_frames"] == 31
    assert record["share_integrator"] == 1.0
    assert set(record["mean_temperature_K"]) == {"all", "H", "C", "O"}
    assert record["bundles"] == dict(reader.header.bundles)
    assert list(record["bundles"]) == ["tiny-escn"]
    assert reader.header.config["mode"] == "classical"
    assert reader.header.seed == 0


def test_guarded_run_keeps_and_counts_what_made_the_frames(words, tmp_path, capsys):
    assert main(["run", *words("guarded", tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    reader = TrajectoryReader(tmp_path / "out" / "trajectory.zarr")
    made = reader.array("made_by")[:, 1:]
    assert record["share_network"] == pytest.approx((made == MadeBy.NETWORK).mean())
    assert record["share_network"] + record["share_integrator"] == pytest.approx(1.0)
    assert sum(record["fallbacks"].values()) == len(reader.events)
    assert f"fallbacks {len(reader.events) or 'none'}" in said
    assert set(record["bundles"]) == {"tiny-escn", "tiny-egno"}
    assert record["costs"]["classical"]["potential"].endswith("tiny-escn.bundle")


def test_surrogate_run_needs_no_guard(words, tmp_path):
    argv = words("surrogate", tmp_path / "out", "--guard", "none", "--no-report")
    assert main(["run", *argv]) == 0
    reader = TrajectoryReader(tmp_path / "out" / "trajectory.zarr")
    assert (reader.array("made_by")[:, 1:] == MadeBy.NETWORK).all()
    assert not (tmp_path / "out" / "report.html").exists()


def test_surrogate_run_is_compared_with_a_potential_that_knows_the_molecule(tmp_path):
    for name, example, known in (("a", "ethanol", True), ("b", "toluene", False)):
        argv = ["run", "--example", example, "--mode", "surrogate", "--out", str(tmp_path / name)]
        argv += ["--n-replicas", "2", "--length-ps", "0.036", "--equilibration-ps", "0", "--export"]
        assert main(argv) == 0
        costs = json.loads((tmp_path / name / "run.json").read_text())["costs"]
        assert (costs is not None) == known
        if known:
            assert costs["classical"]["potential"] == "ethanol-escn"
            assert costs["training_cpu_s_by_model"] == {"ethanol-egno": costs["training_cpu_s"]}
            assert costs["judged_by"] == "cpu"


def test_nve_conserves_energy(words, tmp_path):
    argv = words("classical", tmp_path / "out", "--ensemble", "nve", "--dtype", "float64")
    assert main(["run", *argv, "--no-report"]) == 0
    reader = TrajectoryReader(tmp_path / "out" / "trajectory.zarr")
    total = reader.array("potential_energies") + reader.array("kinetic_energies")
    kinetic = reader.array("kinetic_energies")[:, 1:]
    drift = np.ptp(total[:, 1:], axis=1)
    assert (drift < 0.05 * kinetic.mean(1)).all()
    assert np.ptp(kinetic) > 10 * drift.max()


@pytest.mark.parametrize("mode", [pytest.param("classical", marks=pytest.mark.slow), "guarded"])
def test_same_seed_same_bits_other_seed_other_bits(words, tmp_path, mode):
    for name, seed in (("a", "4"), ("b", "4"), ("c", "5")):
        argv = words(mode, tmp_path / name, "--seed", seed, "--no-report", "--export")
        assert main(["run", *argv]) == 0
    assert arrays(tmp_path / "a") == arrays(tmp_path / "b")
    assert arrays(tmp_path / "a") != arrays(tmp_path / "c")


def test_settings_of_torch_are_as_before(words, tmp_path, monkeypatch):
    from egno_md.propagators.learned import LearnedPropagator

    advance, seen = LearnedPropagator.advance, set()

    def settings():
        return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()

    def watched(self, state, n_frames=None):
        seen.add(settings())
        return advance(self, state, n_frames)

    monkeypatch.setattr(LearnedPropagator, "advance", watched)
    before = settings()
    argv = words("surrogate", tmp_path / "out", "--no-report", "--n-threads", "2")
    assert main(["run", *argv]) == 0
    assert seen == {(2, True)}
    assert settings() == before


class TestResume:
    def test_killed_run_goes_on_bit_for_bit(self, words, tmp_path):
        argv = words("guarded", tmp_path / "out", "--flush-every-s", "0", "--no-report")
        argv += ["--length-ps", "0.2", "--export"]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", *argv],
            env=env,
        )
        store = tmp_path / "out" / "trajectory.zarr"
        while process.poll() is None:
            if store.exists() and TrajectoryReader(store).n_frames > 10:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert 10 < TrajectoryReader(store).n_frames < 101
        # Only --resume and the folder: the settings are those of the store.
        assert main(["run", "--resume", "--out", str(tmp_path / "out")]) == 0
        whole = words("guarded", tmp_path / "whole", "--length-ps", "0.2", "--no-report")
        assert main(["run", *whole]) == 0
        assert arrays(tmp_path / "out") == arrays(tmp_path / "whole")
        assert TrajectoryReader(store).n_frames == 101

    def test_ctrl_c_says_how_to_go_on(self, words, tmp_path, capsys, monkeypatch):
        from egno_md.propagators.classical import Langevin

        advance, calls = Langevin.advance, []

        def counted(self, state, n_frames=None):
            calls.append(n_frames)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return advance(self, state, n_frames)

        argv = words("classical", tmp_path / "out", "--length-ps", "0.1", "--no-report")
        with monkeypatch.context() as patch:
            patch.setattr(Langevin, "advance", counted)
            assert main(["run", *argv]) == 130
        said = capsys.readouterr().err
        assert "--resume --out" in said
        assert "of 0.1 ps" in said
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["trajectory.zarr"]
        assert main(["run", *argv, "--resume"]) == 0
        assert main(["run", *argv[:-1], "--no-report", "--out", str(tmp_path / "b")]) == 0
        assert arrays(tmp_path / "out") == arrays(tmp_path / "b")

    def test_other_settings_are_refused_by_name(self, words, tmp_path, capsys):
        out = tmp_path / "out"
        assert main(["run", *words("surrogate", out, "--no-report")]) == 0
        capsys.readouterr()
        resume = ["--resume", "--out", str(out)]
        said = fails(capsys, [*resume, "--temperature-K", "310"])
        assert "made with temperature_K = 300.0, not 310.0" in said
        assert "seed = 0, not 7" in fails(capsys, [*resume, "--seed", "7"])
        assert "n_threads = 1, not 2" in fails(capsys, [*resume, "--n-threads", "2"])
        assert "cannot make it shorter" in fails(capsys, [*resume, "--length-ps", "0.01"])
        assert (
            main(["run", *resume, "--length-ps", "0.06", "--seed", "0", "--no-report", "--export"])
            == 0
        )
        assert TrajectoryReader(out / "trajectory.zarr").n_frames == 31

    def test_other_weights_are_refused(self, words, tmp_path, capsys, tiny_guard):
        import shutil

        from egno_md.bundle import load_bundle, save_bundle

        mine = tmp_path / "mine.bundle"
        shutil.copytree(tiny_guard, mine)
        argv = [
            *words("classical", tmp_path / "out", "--no-report", "--export"),
            "--guard",
            str(mine),
        ]
        argv += ["--length-ps", "0.004", "--equilibration-ps", "0"]
        assert main(["run", *argv]) == 0
        bundle = load_bundle(mine)
        weights = {k: v + 1 if v.is_floating_point() else v for k, v in bundle.weights.items()}
        save_bundle(tmp_path / "new.bundle", bundle.card, weights)
        shutil.rmtree(mine)
        (tmp_path / "new.bundle").rename(mine)
        capsys.readouterr()
        said = fails(capsys, ["--resume", "--out", str(tmp_path / "out")])
        assert "weights" in said
        assert "'tiny-escn'" in said

    def test_resume_where_nothing_is(self, tmp_path, capsys):
        said = fails(capsys, ["--resume", "--out", str(tmp_path / "none")])
        assert "there is no run to resume" in said

    def test_resume_before_anything_was_kept_starts_anew(self, words, tmp_path):
        assert main(["run", *words("surrogate", tmp_path / "a", "--resume", "--no-report")]) == 0
        assert main(["run", *words("surrogate", tmp_path / "b", "--no-report")]) == 0
        assert arrays(tmp_path / "a") == arrays(tmp_path / "b")


class TestWrongInput:
    def test_existing_output(self, words, tmp_path, capsys):
        argv = words("surrogate", tmp_path / "out", "--no-report", "--export")
        assert main(["run", *argv]) == 0
        before = arrays(tmp_path / "out")
        capsys.readouterr()
        said = fails(capsys, argv)
        assert f"{tmp_path / 'out' / 'trajectory.zarr'} already exists" in said
        assert "--resume" in said
        assert arrays(tmp_path / "out") == before

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--guard", "none"], "needs a potential and guard is none"),
            (["--guard", "no-such-bundle"], "no bundle 'no-such-bundle'"),
            (["--guard", "what:file"], "neither a bundle nor sgdml:FILE"),
            (["--guard", "sgdml:nowhere.npz"], "nowhere.npz"),
            (["--device", "cuda:99"], "'cuda:99' is not there: torch sees"),
            (["--device", "toaster"], "'toaster' is not a device"),
            (["--frame-interval-fs", "0.7"], "0.7"),
            (["--n-replicas", "0"], "n_replicas"),
            (["--wobble", "1"], "unknown option '--wobble'"),
        ],
    )
    def test_options(self, words, tmp_path, capsys, more, message):
        assert message in fails(capsys, words("classical", tmp_path / "out", *more))
        assert not (tmp_path / "out" / "trajectory.zarr").exists()

    def test_bundle_of_the_wrong_kind(self, words, tmp_path, capsys, tiny_egno, tiny_guard):
        said = fails(capsys, words("classical", tmp_path / "out", "--guard", str(tiny_egno)))
        assert "escn" in said
        said = fails(capsys, words("guarded", tmp_path / "out", "--propagator", str(tiny_guard)))
        assert "egno" in said

    def test_frame_interval_of_the_network_stands(self, words, tmp_path, capsys):
        argv = words("guarded", tmp_path / "out", "--frame-interval-fs", "1")
        said = fails(capsys, argv)
        assert "frame_interval_fs = 1.0" in said
        assert "every 2.0 fs" in said

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("2\n\nH 0 0 0\nH 0 0 nan\n", "atom 1"),
            ("2\n\nH 0 0 0\nH 0 0 0.01\n", "apart"),
            ("2\n\nHe 0 0 0\nH 0 0 1.0\n", "atom 0 is He"),
            ("2\n\nQq 0 0 0\nH 0 0 1.0\n", "unknown element 'Qq'"),
            ("", "is empty"),
        ],
    )
    def test_structures(self, tiny_guard, tmp_path, capsys, content, message):
        file = tmp_path / "bad.xyz"
        file.write_text(content)
        argv = [str(file), "--mode", "classical", "--guard", str(tiny_guard)]
        assert message in fails(capsys, [*argv, "--out", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()

    def test_missing_structure_and_example(self, tmp_path, capsys, tiny_guard):
        more = ["--mode", "classical", "--guard", str(tiny_guard), "--out", str(tmp_path / "out")]
        assert "nowhere.xyz does not exist" in fails(capsys, ["nowhere.xyz", *more])
        said = fails(capsys, ["--example", "butanol", *more])
        assert "'butanol' is not there; known are " in said
        assert "ethanol" in said.split("known are")[1]
        assert "nothing to start from" in fails(capsys, more)

    def test_unknown_key_in_a_file(self, tmp_path, capsys):
        file = tmp_path / "job.toml"
        file.write_text('example = "ethanol"\ntemperature = 300\n')
        said = fails(capsys, [str(file)])
        assert "unknown key 'temperature'" in said
        assert "temperature_K" in said

    def test_identical_replicas(self, tiny_guard, tmp_path, capsys):
        from ase.build import molecule
        from ase.io import write

        atoms = molecule("CH3CH2OH")
        atoms.set_momenta(np.full((9, 3), 0.1))
        write(tmp_path / "moving.extxyz", atoms)
        argv = [str(tmp_path / "moving.extxyz"), "--mode", "classical", "--guard", str(tiny_guard)]
        argv += ["--ensemble", "nve", "--equilibration-ps", "0", "--out", str(tmp_path / "out")]
        argv += ["--n-threads", "1"]
        assert "all 16 replicas would do the same" in fails(capsys, argv)
        more = ["--n-replicas", "1", "--length-ps", "0.004", "--no-report", "--export"]
        assert main(["run", *argv, *more, "--precision", "float64"]) == 0
        first = TrajectoryReader(tmp_path / "out" / "trajectory.zarr").segment(0, 1)
        momenta = first.velocities[0, 0] * first.molecule.masses[:, None] * 10.180505710759414
        np.testing.assert_allclose(momenta, np.full((9, 3), 0.1), rtol=1e-6)

    def test_full_disk(self, words, tmp_path, capsys):
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=150k", "none", str(disk)]
        try:
            mounted = subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            mounted = False
        if not mounted:
            pytest.skip("mounting a small disk is not permitted here")
        try:
            argv = words("surrogate", disk / "out", "--length-ps", "4", "--flush-every-s", "0")
            said = fails(capsys, [*argv, "--n-replicas", "30"])
            assert "No space left on device" in said
            reader = TrajectoryReader(disk / "out" / "trajectory.zarr")
            reader.verify()
            assert f"first {reader.n_frames} frames" in said
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def test_temperature_outside_training_is_said(words, tmp_path, capsys):
    argv = words("surrogate", tmp_path / "out", "--temperature-K", "500", "--no-report")
    assert main(["run", *argv, "--export"]) == 0
    said = capsys.readouterr().err
    assert "'tiny-egno' was trained at 250 to 350 K; this run is at 500 K" in said


@pytest.mark.parametrize("mode", ["classical", "guarded"])
def test_a_compiled_run_is_resumed_bit_for_bit(mode, words, tmp_path, monkeypatch, capsys):
    from functools import partial

    from egno_md.trajectories import run_models

    quick = partial(run_models.Compiling, backend="aot_eager")
    monkeypatch.setattr(run_models, "Compiling", quick)
    made = {}
    for name, compile in (("whole", "always"), ("cut", "always"), ("plain", "never")):
        given = ("--compile", compile, "--no-report", "--export", "--precision", "float64")
        argv = words(mode, tmp_path / name, *given)
        if name == "cut":
            assert main(["run", *argv, "--length-ps", "0.016"]) == 0
        assert main(["run", *argv, "--resume"]) == 0
        assert ("compiling" in capsys.readouterr().err) == (compile == "always")
        reader = TrajectoryReader(tmp_path / name / "trajectory.zarr")
        made[name] = reader.array("positions")
    assert made["whole"].tobytes() == made["cut"].tobytes()
    assert made["whole"].tobytes() != made["plain"].tobytes()
    np.testing.assert_allclose(made["whole"], made["plain"], rtol=0, atol=1e-5)
