import dataclasses
import math

import pytest
import torch

from egno_md.state import Molecule, State, kinetic_energy, maxwell_boltzmann, temperature_K
from egno_md.units import BOLTZMANN_EV_PER_K, EV_PER_AMU_A2_FS2


@pytest.fixture
def water():
    return Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)], names=["O", "H1", "H2"])


def state_of(molecule, n_replicas=2, **changes):
    shape = (n_replicas, molecule.n_atoms, 3)
    fields = {
        "positions": torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape),
        "velocities": torch.ones(shape, dtype=torch.float64),
    }
    return State(molecule, **(fields | changes))


class TestMolecule:
    def test_masses_are_the_standard_ones(self, water):
        assert water.masses.tolist() == pytest.approx([15.999, 1.008, 1.008])
        assert water.n_atoms == 3
        assert water.bonds.tolist() == [[0, 1], [0, 2]]

    def test_every_element_has_a_mass(self):
        masses = Molecule.from_numbers(range(1, 119)).masses
        assert bool((masses[1:] > 1.5).all())
        # Rising but for the five well-known inversions and the youngest elements.
        assert int((masses[1:93] < masses[:92]).sum()) == 5

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ([6, 0, 1], "atom 1 has atomic number 0; allowed are 1 to 118"),
            ([6, 1, 119], "atom 2 has atomic number 119"),
            ([-3], "atom 0 has atomic number -3"),
            ([], "at least one atom"),
            ([[1, 2]], "at least one atom"),
            (6, "at least one atom"),
        ],
    )
    def test_wrong_numbers(self, numbers, message):
        with pytest.raises(ValueError, match=message):
            Molecule.from_numbers(torch.tensor(numbers, dtype=torch.int64))

    @pytest.mark.parametrize(
        ("masses", "message"),
        [
            ([1.0, 1.0], r"float64 of shape \(3,\)"),
            ([1.0, 0.0, 1.0], "atom 1 has mass 0.0 amu"),
            ([1.0, 1.0, -2.0], "atom 2 has mass -2.0 amu"),
            ([math.nan, 1.0, 1.0], "atom 0 has mass nan amu"),
            ([math.inf, 1.0, 1.0], "atom 0 has mass inf amu"),
        ],
    )
    def test_wrong_masses(self, water, masses, message):
        with pytest.raises(ValueError, match=message):
            Molecule(water.numbers, torch.tensor(masses, dtype=torch.float64))

    def test_masses_in_single_precision_are_refused(self, water):
        with pytest.raises(ValueError, match=r"float64.*got.*torch.float32"):
            Molecule(water.numbers, water.masses.float())

    @pytest.mark.parametrize("pair", [(0, 0), (1, 0), (0, 3), (-1, 2)])
    def test_wrong_bonds(self, pair):
        with pytest.raises(ValueError, match=r"pairs i < j of atoms 0\.\.2"):
            Molecule.from_numbers([8, 1, 1], bonds=[pair])

    def test_wrong_bond_shape_and_names(self, water):
        with pytest.raises(ValueError, match=r"shape \(n_bonds, 2\)"):
            Molecule(water.numbers, water.masses, torch.zeros(2, dtype=torch.int64))
        with pytest.raises(ValueError, match="names has 2 entries for 3 atoms"):
            Molecule.from_numbers([8, 1, 1], names=["O", "H"])

    def test_it_does_not_change(self, water):
        with pytest.raises(dataclasses.FrozenInstanceError):
            water.pbc = (True, True, True)


class TestState:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize(("field", "unit"), [("positions", "Å"), ("velocities", "Å/fs")])
    def test_a_number_that_is_not_finite_is_named(self, water, field, unit, bad):
        values = torch.zeros((2, 3, 3), dtype=torch.float64)
        values[1, 2, 1] = bad
        with pytest.raises(ValueError, match=rf"of atom 2 \(replica 1, y\) is {bad} {unit};"):
            state_of(water, **{field: values})

    @pytest.mark.parametrize("shape", [(3, 3), (2, 4, 3), (2, 3, 2), (0, 3, 3), (1, 2, 3, 3)])
    def test_wrong_shapes(self, water, shape):
        with pytest.raises(ValueError, match=r"positions must have shape \(n_replicas, 3, 3\)"):
            State(water, torch.zeros(shape), torch.zeros(shape))

    def test_velocities_must_match(self, water):
        with pytest.raises(ValueError, match="velocities must match positions"):
            state_of(water, velocities=torch.zeros(1, 3, 3, dtype=torch.float64))
        with pytest.raises(ValueError, match="velocities must match positions"):
            state_of(water, velocities=torch.zeros(2, 3, 3))

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.complex64])
    def test_wrong_number_types(self, water, dtype):
        zeros = torch.zeros((1, 3, 3), dtype=dtype)
        with pytest.raises(ValueError, match="must be float32 or float64"):
            State(water, zeros, zeros)

    def test_cells(self):
        crystal = Molecule.from_numbers([29], pbc=(True, True, True))
        cell = 3.6 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
        assert state_of(crystal, cell=cell).cell is cell
        with pytest.raises(ValueError, match=r"periodic .* but the state has no cell"):
            state_of(crystal)
        with pytest.raises(ValueError, match=r"shape \(2, 3, 3\)"):
            state_of(crystal, cell=cell[0])
        flat = cell.clone()
        flat[1, 2] = flat[1, 1]
        with pytest.raises(ValueError, match="zero volume"):
            state_of(crystal, cell=flat)
        with pytest.raises(ValueError, match="cell must be finite"):
            state_of(crystal, cell=cell * math.nan)

    def test_a_changed_copy_is_checked_again(self, water):
        state = state_of(water)
        assert state.with_(time_fs=5.0).time_fs == 5.0
        assert state.time_fs == 0.0
        with pytest.raises(ValueError, match="position of atom 0"):
            state.with_(positions=state.positions * math.nan)

    @pytest.mark.parametrize("index", [1, [1], torch.tensor([False, True, False])])
    def test_replicas_are_picked(self, water, index):
        state = state_of(water, 3)
        picked = state.replica(index)
        assert picked.n_replicas == 1
        assert torch.equal(picked.positions[0], state.positions[1])

    def test_replicas_are_picked_with_their_cells(self):
        crystal = Molecule.from_numbers([29], pbc=(True, True, True))
        cells = torch.stack([s * torch.eye(3, dtype=torch.float64) for s in (3.0, 4.0)])
        assert float(state_of(crystal, cell=cells).replica(1).cell[0, 0, 0]) == 4.0

    def test_at_rest_adds_the_replica_axis(self, water):
        state = State.at_rest(water, torch.ones(3, 3, dtype=torch.float64), time_fs=2.0)
        assert state.positions.shape == (1, 3, 3)
        assert float(state.velocities.abs().max()) == 0.0
        assert state.time_fs == 2.0


class TestTemperature:
    def test_kinetic_energy_of_one_atom(self):
        helium = Molecule.from_numbers([2])
        velocity = torch.tensor([[[3e-3, 0.0, 4e-3]]])
        expected = 0.5 * float(helium.masses[0]) * 25e-6 * EV_PER_AMU_A2_FS2
        assert float(kinetic_energy(helium, velocity)) == pytest.approx(expected, rel=1e-6)
        kelvin = 2 * expected / (3 * BOLTZMANN_EV_PER_K)
        assert float(temperature_K(helium, velocity)) == pytest.approx(kelvin, rel=1e-6)
        assert float(temperature_K(helium, velocity, 1)) == pytest.approx(3 * kelvin, rel=1e-6)

    def test_drawn_velocities_have_the_distribution(self, water):
        n = 20_000
        v = maxwell_boltzmann(water, n, 300.0, torch.Generator().manual_seed(1))
        assert v.shape == (n, 3, 3)
        assert v.dtype == torch.float64
        variance = BOLTZMANN_EV_PER_K * 300.0 / EV_PER_AMU_A2_FS2 / water.masses
        z = v / variance.sqrt()[:, None]
        count = n * 9
        # Mean, variance, kurtosis of a standard normal within five standard errors.
        assert abs(float(z.mean())) < 5 / count**0.5
        assert abs(float(z.square().mean()) - 1) < 5 * (2 / count) ** 0.5
        assert abs(float(z.pow(4).mean()) - 3) < 5 * (96 / count) ** 0.5
        per_atom = z.square().mean((0, 2))
        assert bool(((per_atom - 1).abs() < 5 * (2 / (3 * n)) ** 0.5).all())
        # The kinetic temperature of a canonical system fluctuates by sqrt(2/f).
        kelvin = temperature_K(water, v)
        assert abs(float(kelvin.mean()) - 300.0) < 5 * 300.0 * (2 / 9 / n) ** 0.5
        assert float(kelvin.std()) == pytest.approx(300.0 * (2 / 9) ** 0.5, rel=0.05)

    def test_the_same_seed_draws_the_same(self, water):
        a, b, c = (
            maxwell_boltzmann(water, 4, 300.0, torch.Generator().manual_seed(seed))
            for seed in (3, 3, 4)
        )
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    def test_zero_kelvin_is_rest(self, water):
        v = maxwell_boltzmann(water, 1, 0.0, torch.Generator().manual_seed(0))
        assert float(v.abs().max()) == 0.0

    @pytest.mark.parametrize("kelvin", [-1.0, math.nan, math.inf])
    def test_wrong_temperatures(self, water, kelvin):
        with pytest.raises(ValueError, match="finite number >= 0 K"):
            maxwell_boltzmann(water, 1, kelvin, torch.Generator().manual_seed(0))
