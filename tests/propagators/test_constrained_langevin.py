"""Bonds of fixed length stay fixed, and what moves on them has the known distributions."""

import math

import pytest
import torch

from egno_md.propagators.bond_constraints import BondConstraints
from egno_md.propagators.constrained_langevin import ConstrainedLangevin
from egno_md.propagators.hydrogen_masses import bonds_to_hydrogen, heavy_hydrogens
from egno_md.roles import EnergyForces, Propagator
from egno_md.state import Molecule, State, kinetic_energy, maxwell_boltzmann, temperature_K
from egno_md.units import BOLTZMANN_EV_PER_K

KELVIN = 300.0
DIATOMIC = Molecule.from_numbers([6, 1], bonds=[(0, 1)])
# Methane: four constraints that share an atom.
METHANE = Molecule.from_numbers([6, 1, 1, 1, 1], bonds=[(0, k) for k in range(1, 5)])
CORNERS = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
TETRAHEDRON = torch.cat([torch.zeros((1, 3), dtype=torch.float64), CORNERS * (1.09 / 3**0.5)])


class Field:
    """A field along z pulls the second atom up and the first down; slope in eV/Å."""

    def __init__(self, slope=0.0, between=0.0):
        self.slope, self.between = slope, between

    def evaluate(self, state):
        with torch.enable_grad():
            x = state.positions.detach().clone().requires_grad_()
            energy = self._energy(x)
            (g,) = torch.autograd.grad(energy.sum(), x)
        return EnergyForces(energy.detach().double(), -g)

    def energies(self, state):
        return self._energy(state.positions).double()

    def _energy(self, x):
        """The field, and springs between all neighbours of the first atom."""
        energy = -self.slope * (x[:, 1, 2] - x[:, 0, 2])
        if self.between:
            ends = torch.combinations(torch.arange(1, x.shape[1]))
            r = (x[:, ends[:, 0]] - x[:, ends[:, 1]]).norm(dim=-1)
            energy = energy + 0.5 * self.between * (r - 1.7).square().sum(-1)
        return energy


def rods(n, length=1.1, dtype=torch.float64):
    x = torch.zeros((n, 2, 3), dtype=torch.float64)
    x[:, 1, 0] = length
    v = maxwell_boltzmann(DIATOMIC, n, KELVIN, torch.Generator().manual_seed(5))
    return State(DIATOMIC, x.to(dtype), v.to(dtype))


def methanes(n, molecule=METHANE):
    v = maxwell_boltzmann(molecule, n, KELVIN, torch.Generator().manual_seed(6))
    return State(molecule, TETRAHEDRON.expand(n, 5, 3).clone(), v)


def held(molecule, length):
    return BondConstraints(molecule, molecule.bonds, torch.full((len(molecule.bonds),), length))


def dynamics(potential, constraints, seed=0, **changes):
    settings = {
        "timestep_fs": 4.0,
        "frame_interval_fs": 8.0,
        "n_frames": 5,
        "temperature_K": KELVIN,
        "friction_per_ps": 20.0,
    } | changes
    noise = torch.Generator().manual_seed(seed)
    return ConstrainedLangevin(potential, constraints, **settings, generator=noise)


def test_bonds_and_velocities_stay_on_the_constraints():
    bonds = held(METHANE, 1.09)
    segment = dynamics(Field(between=5.0), bonds, timestep_fs=2.0, n_frames=40).advance(methanes(3))
    for f in range(segment.n_frames):
        frame = segment.frame(f)
        assert bonds.deviation_A(frame.positions) < 1e-8
        arrows = bonds.arrows(frame.positions)
        v = frame.velocities
        along = (arrows * (v[:, bonds.pairs[:, 0]] - v[:, bonds.pairs[:, 1]])).sum(-1)
        assert float(along.abs().max()) < 1e-14
    assert float((segment.positions[:, -1] - segment.positions[:, 0]).abs().max()) > 0.1


def test_a_rod_in_a_field_points_as_it_must():
    # A rigid rod of length d in a field: <cos> = coth a - 1/a with a = slope d / kT, and the
    # kinetic energy has five degrees of freedom.
    a = 2.0
    thermal = BOLTZMANN_EV_PER_K * KELVIN
    bonds = held(DIATOMIC, 1.1)
    field = Field(a * thermal / 1.1)
    propagator = dynamics(
        field, bonds, timestep_fs=5.0, frame_interval_fs=50.0, n_frames=14, friction_per_ps=50.0
    )
    assert propagator.degrees_of_freedom(DIATOMIC) == 5
    segment = propagator.advance(rods(1500))
    tail = slice(8, None)
    cosine = segment.positions[:, tail, 1, 2] - segment.positions[:, tail, 0, 2]
    n = 1500  # frames of one rod are not independent
    variance = 1 + 1 / a**2 - 1 / math.tanh(a) ** 2
    assert float(cosine.mean()) / 1.1 == pytest.approx(
        1 / math.tanh(a) - 1 / a, abs=4 * math.sqrt(variance / n)
    )
    kelvin = temperature_K(DIATOMIC, segment.velocities[:, tail], 5)
    # B kicks after O: a little off at finite steps, by (omega dt)^2 with omega of the libration.
    assert float(kelvin.mean()) == pytest.approx(KELVIN, rel=4 * math.sqrt(2 / (5 * n * 6)) + 0.01)


def test_methane_has_the_temperature_of_its_eleven_degrees_of_freedom():
    heavy = heavy_hydrogens(METHANE, 3.0)
    bonds = held(heavy, 1.09)
    assert bonds.degrees_of_freedom() == 11
    # Stiffer springs would show the bias of velocities at finite steps.
    run = dynamics(Field(between=0.5), bonds, friction_per_ps=100.0, n_frames=40)
    kelvin = temperature_K(heavy, run.advance(methanes(200, heavy)).velocities[:, 10:], 11)
    assert float(kelvin.mean()) == pytest.approx(KELVIN, rel=0.03)


def test_without_friction_the_energy_is_kept_to_second_order():
    field, bonds, start = Field(0.3, between=5.0), held(METHANE, 1.09), methanes(4)
    on = dynamics(field, bonds).advance(start, 1).last

    def worst(step):
        run = dynamics(field, bonds, timestep_fs=step, frame_interval_fs=4.0, friction_per_ps=0.0)
        segment = run.advance(on, 25)
        total = segment.potential_energies + kinetic_energy(METHANE, segment.velocities)
        return float((total - total[:, :1]).abs().max())

    coarse, fine = worst(1.0), worst(0.5)
    assert coarse / fine == pytest.approx(4.0, rel=0.25)
    assert coarse < 0.02 * float(kinetic_energy(METHANE, on.velocities).mean())


def test_without_friction_or_field_it_turns_as_a_rigid_rotor():
    # Two equal atoms about their centre: angle = speed * time, exactly at one geodesic.
    pair = Molecule.from_numbers([1, 1], bonds=[(0, 1)])
    x = torch.tensor([[[0.5, 0, 0], [-0.5, 0, 0]]], dtype=torch.float64)
    v = torch.tensor([[[0, 0.01, 0], [0, -0.01, 0]]], dtype=torch.float64)
    run = dynamics(
        Field(), held(pair, 1.0), timestep_fs=1.0, n_geodesic=4, friction_per_ps=0.0, n_frames=4
    )
    segment = run.advance(State(pair, x, v))
    angle = torch.atan2(segment.positions[0, :, 0, 1], segment.positions[0, :, 0, 0])
    expected = 0.02 * segment.times_fs
    torch.testing.assert_close(angle, expected, rtol=2e-5, atol=0)
    speeds = segment.velocities.norm(dim=-1)
    torch.testing.assert_close(speeds, torch.full_like(speeds, 0.01), rtol=1e-10, atol=0)


def test_two_segments_are_one_and_a_restart_goes_on_bit_for_bit(assert_same):
    bonds = held(METHANE, 1.09)
    long, short = (dynamics(Field(between=5.0), bonds) for _ in range(2))
    assert isinstance(long, Propagator)
    whole = long.advance(methanes(2), 6)
    first = short.advance(methanes(2), 2)
    saved = {name: tensor.clone() for name, tensor in short.restart_state().items()}
    assert_same(first.join([first, short.advance(first.last, 4)]), whole)
    fresh = dynamics(Field(between=5.0), bonds, seed=9)
    fresh.restore(saved)
    assert_same(first.join([first, fresh.advance(first.last, 4)]), whole)


def test_float32_states_stay_float32_and_near_their_bonds():
    segment = dynamics(Field(0.1), held(DIATOMIC, 1.1)).advance(rods(4, dtype=torch.float32), 50)
    assert segment.positions.dtype == segment.velocities.dtype == torch.float32
    assert held(DIATOMIC, 1.1).deviation_A(segment.positions[:, -1]) < 1e-5


def test_a_flexible_start_is_brought_onto_the_constraints_and_a_torn_one_is_refused():
    bonds = held(DIATOMIC, 1.1)
    still = rods(3, length=1.3)
    x, v = bonds.start(still.positions, still.velocities)
    assert bonds.deviation_A(x) < 1e-12
    masses = DIATOMIC.masses[:, None]
    shift = (masses * (x - still.positions)).sum(1)
    torch.testing.assert_close(shift, torch.zeros_like(shift), rtol=0, atol=1e-12)
    assert float((v[:, 0] - v[:, 1])[:, 0].abs().max()) < 1e-16
    again = bonds.start(x, v)
    assert torch.equal(again[0], x)
    assert torch.equal(again[1], v)
    with pytest.raises(ValueError, match=r"atoms 0 and 1 of replica 0 are 0.7 Å off"):
        dynamics(Field(), bonds).advance(rods(2, length=1.8))


def test_without_constraints_it_is_langevin(harmonic, crowd):
    from egno_md.propagators.classical import Langevin

    none = BondConstraints(crowd.molecule, torch.zeros((0, 2), dtype=torch.int64), torch.zeros(0))
    run = dynamics(harmonic(), none, timestep_fs=0.5, frame_interval_fs=1.0).advance(crowd)
    noise = torch.Generator().manual_seed(0)
    same = Langevin(harmonic(), 0.5, 1.0, 5, KELVIN, 20.0, noise).advance(crowd)
    torch.testing.assert_close(run.positions, same.positions, rtol=0, atol=1e-13)
    torch.testing.assert_close(run.velocities, same.velocities, rtol=0, atol=1e-13)


def test_hydrogens_take_mass_from_their_neighbours():
    heavy = heavy_hydrogens(METHANE, 3.0)
    assert heavy.masses[1:].tolist() == [3.0] * 4
    assert float(heavy.masses.sum()) == pytest.approx(float(METHANE.masses.sum()))
    assert bonds_to_hydrogen(METHANE).tolist() == [True] * 4
    carbonyl = Molecule.from_numbers([6, 8, 1], bonds=[(0, 1), (0, 2)])
    assert bonds_to_hydrogen(carbonyl).tolist() == [False, True]
    with pytest.raises(ValueError, match=r"leaves atom 0 .* only 0.0\d* amu, lighter"):
        heavy_hydrogens(METHANE, 4.0)
    with pytest.raises(ValueError, match="must be positive"):
        heavy_hydrogens(METHANE, 0.0)


@pytest.mark.parametrize(
    ("pairs", "lengths", "message"),
    [
        ([[0, 1]], [0.0], "lengths_A must be positive"),
        ([[0, 2]], [1.0], r"two different atoms of 0..1"),
        ([[0, 0]], [1.0], "two different atoms"),
        ([[0, 1]], [1.0, 1.0], "pairs"),
    ],
)
def test_wrong_constraints_are_named(pairs, lengths, message):
    with pytest.raises(ValueError, match=message):
        BondConstraints(DIATOMIC, torch.tensor(pairs), torch.tensor(lengths))


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match="n_geodesic is 0"):
        dynamics(Field(), held(DIATOMIC, 1.1), n_geodesic=0)
    with pytest.raises(ValueError, match="other atoms or masses"):
        dynamics(Field(), held(heavy_hydrogens(DIATOMIC), 1.1)).advance(rods(1))
    twice = BondConstraints(DIATOMIC, torch.tensor([[0, 1], [0, 1]]), torch.full((2,), 1.1))
    with pytest.raises(ValueError, match="contradict each other or are redundant"):
        dynamics(Field(), twice).advance(rods(2))
    with pytest.raises(ValueError, match="take a shorter time step"):
        dynamics(Field(), held(DIATOMIC, 1.1), timestep_fs=400.0, frame_interval_fs=400.0).advance(
            rods(20)
        )
