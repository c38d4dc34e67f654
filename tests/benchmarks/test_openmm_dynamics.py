"""Dynamics that OpenMM integrates: the right ensemble, the same bits again, errors in words."""

from dataclasses import replace

import openmm
import pytest
import torch

from egno_md.benchmarks.openmm_dynamics import OpenMMLangevin
from egno_md.calculators.potential_from_openmm import OpenMMPotential
from egno_md.propagators.bond_constraints import BondConstraints
from egno_md.propagators.hydrogen_masses import bonds_to_hydrogen, heavy_hydrogens
from egno_md.segment import MadeBy
from egno_md.state import temperature_K
from egno_md.units import BOLTZMANN_EV_PER_K, KJ_PER_MOL

from .springs import LENGTHS, MOLECULE, STIFFNESS, Springs, start

HEAVY = heavy_hydrogens(MOLECULE, 3.0)
TO_HYDROGEN = bonds_to_hydrogen(HEAVY)
FIXED = BondConstraints(HEAVY, HEAVY.bonds[TO_HYDROGEN], LENGTHS[TO_HYDROGEN])
KELVIN = 300.0


def springs(*, periodic=False):
    """The springs as a system of OpenMM, with masses of its own and a remover of motion."""
    system, bonds = openmm.System(), openmm.HarmonicBondForce()
    for _ in range(MOLECULE.n_atoms):
        system.addParticle(7.0)
    for (i, j), length in zip(MOLECULE.bonds.tolist(), LENGTHS.tolist(), strict=True):
        bonds.addBond(i, j, 0.1 * length, 100.0 * STIFFNESS / KJ_PER_MOL)
    bonds.setUsesPeriodicBoundaryConditions(periodic)
    system.addForce(bonds)
    system.addForce(openmm.CMMotionRemover())
    return OpenMMPotential(system, MOLECULE.numbers.tolist())


def dynamics(seed=1, *, fixed=False, step_fs=None, look_fs=32.0, friction=50.0):
    step = (4.0 if fixed else 0.5) if step_fs is None else step_fs
    return OpenMMLangevin(
        springs(),
        HEAVY if fixed else MOLECULE,
        step,
        look_fs,
        1,
        KELVIN,
        friction,
        torch.Generator().manual_seed(seed),
        constraints=FIXED if fixed else None,
    )


def begin(n_replicas, *, fixed=False):
    state = start(n_replicas, KELVIN)
    return state.with_(molecule=HEAVY) if fixed else state


def another_draws():
    """Another context of OpenMM, which on the Reference platform has the same random numbers."""
    system = openmm.System()
    system.addParticle(1.0)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions([openmm.Vec3(0, 0, 0)])
    integrator.step(1)


@pytest.mark.parametrize("fixed", [False, True])
def test_temperature_and_energy_are_those_of_the_bath(fixed):
    made = dynamics(fixed=fixed)
    state = made.advance(begin(8, fixed=fixed), 20).last
    segment = made.advance(state, 400)
    freedom = 9 - len(FIXED) if fixed else 9
    kelvin = temperature_K(made.molecule, segment.velocities, freedom)
    # 128 ps in all, correlated over 0.02 ps at a friction of 50/ps: about 1 % of error.
    assert float(kelvin.mean()) == pytest.approx(KELVIN, rel=0.05)
    x = segment.positions.flatten(0, 1)
    energy = Springs().energies(start(1).with_(positions=x, velocities=torch.zeros_like(x)))
    n_springs = 1 if fixed else 2
    expected = 0.5 * n_springs * BOLTZMANN_EV_PER_K * KELVIN
    assert float(energy.mean()) == pytest.approx(expected, rel=0.1)
    assert bool((segment.made_by == int(MadeBy.INTEGRATOR)).all())
    assert segment.times_fs[:2].tolist() == [32.0 * 21, 32.0 * 22]


def test_fixed_bonds_are_kept_from_a_start_off_them():
    state = begin(4, fixed=True)
    state = state.with_(positions=1.05 * state.positions)
    segment = dynamics(fixed=True).advance(state, 50)
    assert FIXED.deviation_A(segment.positions.flatten(0, 1)) < 2e-5


@pytest.mark.parametrize("fixed", [False, True])
def test_the_same_seed_gives_the_same_bits(fixed):
    def run(seed):
        made = dynamics(seed, fixed=fixed)
        state = made.advance(begin(3, fixed=fixed)).last
        another_draws()
        return made.advance(state).positions

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("fixed", [False, True])
def test_a_restart_gives_the_same_bits(fixed):
    made = dynamics(1, fixed=fixed)
    state = made.advance(begin(3, fixed=fixed)).last
    saved = {key: value.clone() for key, value in made.restart_state().items()}
    ahead = made.advance(state, 2)
    other = dynamics(7, fixed=fixed)
    other.advance(begin(3, fixed=fixed))
    another_draws()
    other.restore(saved)
    again = other.advance(state, 2)
    assert torch.equal(again.positions, ahead.positions)
    assert torch.equal(again.velocities, ahead.velocities)
    # What was saved before the first segment leads to the first segment.
    fresh, late = dynamics(5, fixed=fixed), dynamics(6, fixed=fixed)
    late.advance(begin(3, fixed=fixed))
    late.restore(fresh.restart_state())
    first = fresh.advance(begin(3, fixed=fixed))
    assert torch.equal(late.advance(begin(3, fixed=fixed)).positions, first.positions)


def test_the_start_is_left_as_it_is_and_keeps_its_dtype():
    state = begin(2)
    state = state.with_(positions=state.positions.float(), velocities=state.velocities.float())
    before = state.positions.clone()
    assert dynamics().advance(state).positions.dtype == torch.float32
    assert torch.equal(state.positions, before)


def test_the_cell_of_each_replica_is_handed_over():
    periodic = replace(MOLECULE, pbc=(True, True, True))
    noise = torch.Generator().manual_seed(1)
    made = OpenMMLangevin(springs(periodic=True), periodic, 0.5, 32.0, 1, KELVIN, 10.0, noise)
    edges = torch.tensor([15.0, 12.0], dtype=torch.float64)
    state = begin(2)
    x = state.positions.clone()
    x[:, 0, 0] += edges
    cell = edges[:, None, None] * torch.eye(3, dtype=torch.float64)
    segment = made.advance(state.with_(molecule=periodic, positions=x, cell=cell))
    assert segment.cell is cell
    # The spring to the first atom goes through the wall and stays about as long as it was.
    across = segment.positions[:, 0, 1] - segment.positions[:, 0, 0]
    across[:, 0] += edges
    assert float((across.norm(dim=-1) - LENGTHS[0]).abs().max()) < 0.2


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"frame_interval_fs 32.3 is not a multiple"):
        dynamics(look_fs=32.3)
    with pytest.raises(ValueError, match="at least one frame"):
        dynamics().advance(begin(1), 0)
    with pytest.raises(ValueError, match="other atoms or masses"):
        dynamics(fixed=True).advance(begin(1))
    few = openmm.System()
    few.addParticle(1.0)
    noise = torch.Generator().manual_seed(1)
    with pytest.raises(ValueError, match="3 atoms, the OpenMM system 1"):
        OpenMMLangevin(OpenMMPotential(few), MOLECULE, 0.5, 32.0, 1, KELVIN, 10.0, noise)
    with pytest.raises(ValueError, match=r"steps of 400 fs failed for replica 0 after 0 fs"):
        dynamics(step_fs=400.0, look_fs=400_000.0).advance(begin(2))
    made = dynamics()
    made.restore(made.restart_state() | {"checkpoint": torch.zeros(9, dtype=torch.uint8)})
    with pytest.raises(ValueError, match="does not take the checkpoint"):
        made.advance(begin(1))
    with pytest.raises(ValueError, match="no generator state"):
        made.restore({})
