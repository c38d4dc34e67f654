"""What people do with a calculator in ASE, done with this one."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import ase.calculators.calculator as ase_calculator
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms, FixBondLength
from ase.filters import FrechetCellFilter
from ase.md import VelocityVerlet, thermalize_momenta
from ase.md.langevin import Langevin
from ase.mep import NEB
from ase.optimize import BFGS, FIRE, LBFGS
from ase.phonons import Phonons
from ase.vibrations import Vibrations

from egno_md.calculators.escn_calculator import ESCNCalculator
from egno_md.models.escn_md import ESCNMD

ROOT = Path(__file__).resolve().parents[2]
ETHANOL = ROOT / "egno_md" / "examples" / "ethanol.xyz"


@pytest.fixture(scope="module")
def model() -> ESCNMD:
    torch.manual_seed(0)
    small = {"channels": 8, "hidden_channels": 8, "radial_hidden": 16, "cutoff_A": 4.0}
    return ESCNMD([1, 8, 29], **small).double()


@pytest.fixture(scope="module")
def trained() -> ESCNCalculator:
    return ESCNCalculator("ethanol-escn", dtype="float64")


def crystal(seed: int = 1) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell @ np.array([[1, 0.05, 0], [0, 1, 0.02], [0, 0, 1.03]]), True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def ethanol(stdev: float = 0.03) -> Atoms:
    atoms = ase.io.read(ETHANOL)
    atoms.rattle(stdev, seed=2)
    return atoms


@pytest.mark.parametrize("optimiser", [BFGS, FIRE, LBFGS])
def test_optimisers_end_in_one_minimum(trained, optimiser) -> None:
    atoms = ethanol()
    atoms.calc = trained
    with optimiser(atoms, logfile=None) as opt:
        assert opt.run(fmax=0.1, steps=100)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= 0.1
    assert atoms.get_distance(0, 1) == pytest.approx(1.52, abs=0.06)


def test_cells_relax(model) -> None:
    atoms = crystal()
    atoms.calc = ESCNCalculator(model)
    before = atoms.get_potential_energy()
    with BFGS(FrechetCellFilter(atoms), logfile=None) as opt:
        opt.run(fmax=1e-3, steps=5)
    assert atoms.get_potential_energy() < before


@pytest.mark.slow
def test_vibrations(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    atoms = ethanol(0.0)
    atoms.calc = trained
    with BFGS(atoms, logfile=None) as opt:
        opt.run(fmax=0.003, steps=200)
    vibrations = Vibrations(atoms)
    vibrations.run()
    waves = vibrations.get_frequencies()
    stretches = np.sort(waves.real)[-6:]
    # The O-H and five C-H stretches of ethanol, 1/cm; at rest six modes have no frequency.
    assert stretches[0] > 2800
    assert 3500 < stretches[-1] < 4000
    assert np.abs(waves[:6]).max() < 100


def test_phonons_of_a_crystal(model, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    phonons = Phonons(bulk("Cu", a=3.6), ESCNCalculator(model), supercell=(2, 2, 2), delta=0.02)
    phonons.run()
    phonons.read(acoustic=True)
    squares = np.sign(waves := phonons.band_structure([[0, 0, 0], [0.5, 0, 0.5]])) * waves**2
    # At the centre of the zone the crystal moves as a whole; elsewhere it does not.
    assert np.abs(squares[0]).max() < 1e-3 * np.abs(squares[1]).max()


def test_bands_share_one_calculator(trained) -> None:
    first, last = ethanol(0.0), ethanol(0.0)
    last.positions[8] = first.positions[1] + [0.9, 0.9, 0.3]
    images = [first, *(first.copy() for _ in range(2)), last]
    for image in images:
        image.calc = trained
    band = NEB(images, allow_shared_calculator=True, method="improvedtangent")
    band.interpolate()
    with FIRE(band, logfile=None) as opt:
        opt.run(fmax=0.01, steps=2)
    energies = [image.get_potential_energy() for image in images]
    assert len({round(e, 6) for e in energies}) == 4


def test_fixed_atoms_and_bonds_stay(trained) -> None:
    atoms = ethanol()
    atoms.set_constraint([FixAtoms([0, 3]), FixBondLength(1, 2)])
    atoms.calc = trained
    before, length = atoms.positions.copy(), atoms.get_distance(1, 2)
    assert not atoms.get_forces()[[0, 3]].any()
    with BFGS(atoms, logfile=None) as opt:
        opt.run(fmax=0.1, steps=10)
    np.testing.assert_array_equal(atoms.positions[[0, 3]], before[[0, 3]])
    assert atoms.get_distance(1, 2) == pytest.approx(length, abs=1e-6)
    assert np.abs(atoms.positions - before).max() > 1e-3


def test_dynamics_conserve_energy_to_second_order(trained) -> None:
    spreads = []
    for timestep in (0.5, 0.25):
        atoms = ethanol(0.0)
        thermalize_momenta(atoms, 300.0, rng=np.random.default_rng(3))
        atoms.calc = trained
        energies = []
        with VelocityVerlet(atoms, timestep * units.fs) as dyn:
            dyn.attach(lambda a=atoms, e=energies: e.append(a.get_total_energy()))
            dyn.run(round(8 / timestep))
        spreads.append(np.ptp(energies))
    assert spreads[0] < 0.02
    assert spreads[0] / spreads[1] == pytest.approx(4.0, rel=0.3)


def test_other_drivers_run(trained) -> None:
    atoms = ethanol()
    thermalize_momenta(atoms, 300.0, rng=np.random.default_rng(3))
    atoms.calc = trained
    with Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=300,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(1),
    ) as dyn:
        dyn.run(5)
    assert np.isfinite(atoms.get_total_energy())


def test_trajectories_note_the_bundle(trained, tmp_path) -> None:
    atoms = ethanol()
    atoms.calc = trained
    forces = atoms.get_forces()
    atoms.write(tmp_path / "a.traj")
    atoms.write(tmp_path / "a.extxyz")
    for name in ("a.traj", "a.extxyz"):
        back = ase.io.read(tmp_path / name)
        np.testing.assert_allclose(back.get_forces(), forces, rtol=0, atol=1e-7)
    assert ase.io.read(tmp_path / "a.traj").calc.name == "escn"
    assert trained.todict()["bundle"] == "ethanol-escn"
    assert trained.todict()["dtype"] == "float64"
    assert len(trained.todict()["sha256"]) == 64


def test_ase_knows_it_by_name() -> None:
    assert ase_calculator.get_calculator_class("escn") is ESCNCalculator
    assert "escn" in ase_calculator.names


def test_the_plugin_of_ase_leads_to_it(monkeypatch) -> None:
    plugins = pytest.importorskip("ase._4.plugins.plugin_collection")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["ase.plugins"].items()
    entry = importlib.metadata.EntryPoint(name, value, "ase.plugins")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])
    (plugin,) = plugins.PluginCollection.from_entry_points().calculators
    assert plugin.name == "escn"
    assert plugin.implementation is ESCNCalculator


def test_listing_plugins_brings_no_torch() -> None:
    code = "import sys, egno_md.calculators.ase_plugin as p; print(len(p.__ase_plugins__)); "
    code += "sys.exit('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
    assert found.stdout.strip() in (b"0", b"1")
