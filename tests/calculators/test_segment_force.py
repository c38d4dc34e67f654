from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms
from ase.md import VelocityVerlet, thermalize_momenta
from ase.optimize import BFGS, FIRE

from egno_md.calculators.escn_calculator import ESCNCalculator
from egno_md.calculators.potential_calculator import PotentialCalculator
from egno_md.calculators.segment_force import STABLE_TURN, SegmentForceCalculator
from egno_md.units import ACCELERATION_PER_FORCE
from tests.calculators.tethered_atoms import STIFFNESS, Oscillators, Tethers, homes, some_atoms

EXAMPLES = Path(__file__).resolve().parents[2] / "egno_md" / "examples"


def frequencies(atoms: Atoms) -> np.ndarray:
    """Angular frequencies of tethered atoms, 1/fs."""
    return np.sqrt(STIFFNESS * ACCELERATION_PER_FORCE / atoms.get_masses())


def calculator(span_fs: float = 2.0, **options) -> SegmentForceCalculator:
    return SegmentForceCalculator(Oscillators(1, span_fs), bonds=[], **options)


@pytest.mark.parametrize("span_fs", [0.1, 2.0, 5.0])
def test_the_force_is_the_mollified_force(span_fs) -> None:
    atoms = some_atoms(4)
    atoms.calc = calculator(span_fs)
    half = 0.5 * frequencies(atoms)[:, None] * span_fs
    expected = -STIFFNESS * (atoms.positions - homes(4)) * (np.sin(half) / half) ** 2
    np.testing.assert_allclose(atoms.get_forces(), expected, rtol=1e-6, atol=1e-9)


def test_velocity_verlet_with_it_is_exact_on_springs() -> None:
    start = some_atoms(4)
    errors = []
    for calc in (calculator(5.0), PotentialCalculator(Tethers())):
        atoms = start.copy()
        atoms.calc = calc
        with VelocityVerlet(atoms, 5.0 * units.fs) as dyn:
            dyn.run(60)
        propagator = Oscillators()
        from egno_md.ase_atoms import state_from_atoms

        x, _ = propagator.moved(state_from_atoms(start), torch.tensor(300.0).double())
        # ASE's drivers start from velocities at rest of the step: the first kick is mollified.
        errors.append(np.abs(atoms.positions - x[0].numpy()).max())
    assert errors[0] < 0.2 * errors[1]
    assert errors[1] > 0.01


def test_only_positions_matter(monkeypatch) -> None:
    atoms = some_atoms()
    atoms.calc = calculator()
    atoms.get_forces()
    made = atoms.calc._propagator
    calls = made.calls
    atoms.set_momenta(2 * atoms.get_momenta())
    atoms.get_forces()
    assert made.calls == calls
    atoms.positions[0, 0] += 0.1
    atoms.get_forces()
    assert made.calls == calls + 1
    assert atoms.calc._propagator is made


def test_the_stiffest_vibration_is_found() -> None:
    atoms = some_atoms(4)
    for span_fs in (0.5, 4.0):
        atoms.calc = calculator(span_fs)
        atoms.get_forces()
        assert atoms.calc.turn == pytest.approx(frequencies(atoms).max() * span_fs, rel=0.01)


def test_a_span_beyond_its_limit_is_warned_of_once() -> None:
    atoms = some_atoms(4)
    limit_fs = STABLE_TURN / frequencies(atoms).max()
    atoms.calc = calculator(0.95 * limit_fs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_forces()
    atoms.calc = calculator(1.1 * limit_fs)
    with pytest.warns(UserWarning, match=rf"Take span_fs up to {limit_fs:.1f}"):
        atoms.get_forces()
    atoms.rattle(0.01, seed=1)
    atoms.get_forces()


def test_there_is_no_energy_without_a_companion() -> None:
    atoms = some_atoms()
    atoms.calc = calculator()
    atoms.get_forces()
    for force_consistent in (False, True):
        with pytest.raises(PropertyNotImplementedError, match=r"give .* a companion"):
            atoms.get_potential_energy(force_consistent=force_consistent)
    assert atoms.calc.implemented_properties == ["forces"]


@pytest.mark.parametrize("optimiser", [BFGS, FIRE])
def test_optimisers_find_the_minimum(optimiser) -> None:
    atoms = some_atoms(4)
    atoms.set_constraint(FixAtoms([0]))
    start = atoms.positions.copy()
    potential = Tethers()
    atoms.calc = calculator(potential=potential)
    with optimiser(atoms, logfile=None) as opt:
        assert opt.run(fmax=1e-3, steps=300)
    np.testing.assert_allclose(atoms.positions[1:], homes(4)[1:], rtol=0, atol=1e-3)
    np.testing.assert_array_equal(atoms.positions[0], start[0])
    energy = atoms.get_potential_energy()
    assert energy == pytest.approx(0.5 * STIFFNESS * ((start - homes(4))[0] ** 2).sum(), abs=1e-5)
    # Forces are the segment's; the companion was asked for energies only.
    assert potential.calls == 0


def test_energies_and_forces_are_kept_side_by_side() -> None:
    atoms, potential = some_atoms(), Tethers()
    atoms.calc = calculator(potential=PotentialCalculator(potential))
    forces, energy = atoms.get_forces(), atoms.get_potential_energy()
    calls = atoms.calc._propagator.calls
    np.testing.assert_array_equal(atoms.get_forces(), forces)
    assert atoms.get_potential_energy() == energy
    assert atoms.calc._propagator.calls == calls
    atoms.positions[0, 0] += 0.1
    assert atoms.get_potential_energy() != energy
    assert set(atoms.calc.results) == {"energy"}
    assert not np.array_equal(atoms.get_forces(), forces)


def test_what_cannot_be_computed_is_refused() -> None:
    charged, wide = some_atoms(), some_atoms()
    charged.info["charge"] = 1
    wide.positions[1, 2] = np.nan
    for atoms, message in ((charged, "total charge of 1"), (wide, "position of atom 1 .* is nan")):
        atoms.calc = calculator()
        with pytest.raises(ValueError, match=message):
            atoms.get_forces()
    atoms = some_atoms()
    atoms.calc = SegmentForceCalculator(Oscillators(1, 2.0), span_fs=3.0, bonds=[])
    with pytest.raises(ValueError, match=r"3 is not a multiple of .* 2 fs"):
        atoms.get_forces()
    propagator = Oscillators(1, 2.0)
    propagator.damage = lambda segment: segment.positions[..., 1, :].fill_(float("inf"))
    atoms.calc = SegmentForceCalculator(propagator, bonds=[])
    with pytest.raises(ValueError, match="not finite"):
        atoms.get_forces()
    for options, message in (
        ({"span_fs": 0.0}, "span_fs is 0.0"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"potential": 3}, "got int"),
    ):
        with pytest.raises(ValueError, match=message):
            SegmentForceCalculator(Oscillators(), **options)
    with pytest.raises(ValueError, match="ask for forces first"):
        _ = SegmentForceCalculator("ethanol-egno").span_fs


def test_a_packaged_network_gives_the_forces_of_the_packaged_potential() -> None:
    atoms = ase.io.read(EXAMPLES / "ethanol.xyz")
    atoms.rattle(0.05, seed=1)
    reference = ESCNCalculator("ethanol-escn").get_forces(atoms)
    atoms.calc = SegmentForceCalculator("ethanol-egno", span_fs=1.0)
    forces = atoms.get_forces()
    assert np.abs(reference).max() > 2.0
    assert np.abs(forces - reference).mean() < 0.1 * np.abs(reference).mean()
    # The O-H stretch, about 3700 1/cm, is 0.7 rad/fs; the estimate may be of a C-H stretch.
    assert 0.55 < atoms.calc.turn < 0.75
    atoms.calc = SegmentForceCalculator("ethanol-egno")
    with pytest.warns(UserWarning, match=r"3 fs, in which the stiffest vibration turns by 2\.\d"):
        atoms.get_forces()
    assert atoms.calc.span_fs == 3.0


def test_other_atoms_get_a_propagator_of_their_own() -> None:
    calc = SegmentForceCalculator("ethanol-egno", span_fs=1.0)
    ethanol = ase.io.read(EXAMPLES / "ethanol.xyz")
    first = calc.get_forces(ethanol)
    heavy = ethanol.copy()
    heavy.set_masses(2 * ethanol.get_masses())
    assert not np.array_equal(calc.get_forces(heavy), first)
    np.testing.assert_array_equal(calc.get_forces(ethanol), first)


@pytest.mark.slow
def test_a_packaged_network_conserves_the_energy_of_the_packaged_potential() -> None:
    atoms = ase.io.read(EXAMPLES / "ethanol.xyz")
    thermalize_momenta(atoms, 300.0, rng=np.random.default_rng(1))
    companion = ESCNCalculator("ethanol-escn", dtype="float64")
    atoms.calc = SegmentForceCalculator("ethanol-egno", span_fs=2.0, potential=companion)
    totals = []
    with VelocityVerlet(atoms, 2.0 * units.fs) as dyn:
        dyn.attach(lambda: totals.append(atoms.get_total_energy()), interval=10)
        dyn.run(500)
    assert np.ptp(totals) < 0.1
    assert abs(np.mean(totals[-10:]) - np.mean(totals[:10])) < 0.05
