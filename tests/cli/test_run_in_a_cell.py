"""A crystal from the first command to the report: run in every mode, and reference statistics."""

import itertools
import json

import pytest
import torch

from egno_md.bundle import load_bundle, save_bundle
from egno_md.bundle_card import BundleCard
from egno_md.cli import main
from egno_md.models.hamiltonian_egno import HamiltonianEGNO

SIDE_A = 7.26


@pytest.fixture(scope="module")
def crystal(tmp_path_factory):
    """Path of a structure file: 32 atoms of copper in a cell."""
    path = tmp_path_factory.mktemp("crystal") / "crystal.xyz"
    corners = itertools.product(range(2), repeat=3)
    basis = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    atoms = [
        " ".join(["Cu", *(f"{3.63 * (c + b):.4f}" for c, b in zip(corner, site, strict=True))])
        for corner in corners
        for site in basis
    ]
    lattice = " ".join(str(SIDE_A if k % 4 == 0 else 0.0) for k in range(9))
    head = f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"'
    path.write_text("\n".join(["32", head, *atoms]) + "\n")
    return path


@pytest.fixture
def bundle(tmp_path):
    """Path of an untrained EGNO bundle for copper: frames 8 fs apart, 16 fs in one go."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HamiltonianEGNO(
            [29],
            [(29, 29, 4)],
            step_fs=8.0,
            n_hidden=8,
            n_vectors=4,
            n_layers=1,
            n_radial=6,
            cutoff_A=3.4,
        )
    model.distance_mean.fill_(2.57)
    model.distance_spread.fill_(0.15)
    card = BundleCard(
        name="copper-untrained",
        kind="egno",
        architecture=model.architecture(),
        elements=[29],
        horizon_fs=16.0,
        frame_interval_fs=8.0,
    )
    return save_bundle(tmp_path / "copper-untrained.bundle", card, model.state_dict())


@pytest.fixture
def words(crystal, bundle):
    def of(mode, out, *more):
        return [
            *("run", str(crystal), "--mode", mode, "--out", str(out)),
            *("--guard", "ase:emt", "--propagator", str(bundle), "--timestep-fs", "4"),
            *("--n-replicas", "2", "--length-ps", "0.16", "--equilibration-ps", "0.016", *more),
        ]

    return of


def test_every_mode_runs_and_the_network_is_held_against_the_reference(
    words, crystal, bundle, tmp_path, capsys
):
    argv = ["reference", str(bundle), "--potential", "ase:emt", "--start", str(crystal)]
    argv += ["--timestep-fs", "5", "--frame-interval-fs", "5", "--length-ps", "0.05"]
    before = torch.get_num_threads()
    assert main([*argv, "--burn-in-ps", "0", "--n-replicas", "4", "--n-threads", "1"]) == 0
    torch.set_num_threads(before)
    assert "with ase emt at 300 K" in capsys.readouterr().out
    kept = load_bundle(bundle).reference
    pairs = 32 * 31 // 2
    assert kept["radial_counts"].long().sum((1, 2)).tolist() == [10 * pairs] * 4

    assert main(words("surrogate", tmp_path / "surrogate")) == 0
    report = (tmp_path / "surrogate" / "report.html").read_text()
    assert "g(r) looks like the reference" in report
    assert "× chance" in report
    assert "h(r)" not in report
    facts = json.loads((tmp_path / "surrogate" / "run.json").read_text())
    assert facts["share_network"] == 1.0

    assert main(words("guarded", tmp_path / "guarded")) == 0
    facts = json.loads((tmp_path / "guarded" / "run.json").read_text())
    assert facts["share_network"] + facts["share_integrator"] == pytest.approx(1.0)
    assert facts["costs"]["classical"]["potential"] == "ase:emt"
    # An untrained network is told from the potential by its energy, not by touching neighbours.
    assert set(facts["fallbacks"]) <= {"energy error", "kinetic temperature"}
    assert facts["fallbacks"]["energy error"] > 0


def test_classical_run_of_a_crystal_shows_its_shells(words, tmp_path, capsys):
    assert main(words("classical", tmp_path / "out", "--frame-interval-fs", "16")) == 0
    assert "Cu32: 0.16 ps x 2" in capsys.readouterr().out
    report = (tmp_path / "out" / "report.html").read_text()
    assert "g(r) of nearest images, 200 bins up to 3.63 Å" in report


def test_calculators_that_ase_does_not_know_are_refused(words, tmp_path, capsys):
    argv = words("classical", tmp_path / "out")
    argv[argv.index("ase:emt")] = "ase:nosuch"
    assert main(argv) == 2
    assert "ase:nosuch cannot be opened" in capsys.readouterr().err
    argv[argv.index("ase:nosuch")] = "gromacs:file"
    assert main(argv) == 2
    assert "neither a bundle nor sgdml:FILE, ase:CALCULATOR, openmm" in capsys.readouterr().err
