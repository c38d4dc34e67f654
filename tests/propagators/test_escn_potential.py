import pytest
import torch

from egno_md.bundle import BundleCard, save_bundle
from egno_md.models.escn_md import ESCNMD
from egno_md.models.frozen_graph import Compiling
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.propagators.network_evaluation import groups_of
from egno_md.roles import Potential
from egno_md.state import Molecule, State

WATER = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.96, 0.0], [0.93, -0.24, 0.0]], dtype=torch.float64)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ESCNMD([1, 8], channels=8, hidden_channels=8, radial_hidden=16, cutoff_A=4.0)


@pytest.fixture
def potential(model):
    return ESCNPotential(model, dtype=torch.float64)


def water(n_replicas=3, dtype=torch.float64, pbc=(False,) * 3, cell=None):
    draw = torch.Generator().manual_seed(2)
    noise = torch.randn((n_replicas, 3, 3), generator=draw, dtype=torch.float64)
    molecule = Molecule.from_numbers([8, 1, 1], pbc=pbc)
    return State.at_rest(molecule, (WATER + 0.05 * noise).to(dtype), cell=cell)


def test_is_a_potential(potential):
    assert isinstance(potential, Potential)
    assert potential.cutoff_A == 4.0
    assert potential.elements == (1, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inside", [torch.float32, torch.float64])
def test_keeps_the_dtype_of_the_state(model, dtype, inside):
    state = water(dtype=dtype)
    found = ESCNPotential(model, dtype=inside).evaluate(state)
    assert found.energy.dtype == torch.float64
    assert found.forces.dtype == dtype
    assert found.forces.shape == state.positions.shape
    assert found.virial is None
    assert not found.forces.requires_grad


def test_energies_are_those_of_evaluate(potential):
    state = water()
    assert torch.equal(potential.energies(state), potential.evaluate(state).energy)


@pytest.mark.parametrize("shelter", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(potential, shelter):
    plain = potential.evaluate(water())
    with shelter():
        sheltered = potential.evaluate(water())
    assert torch.equal(plain.forces, sheltered.forces)


def test_large_batches_are_cut_without_a_trace(model):
    state = water(7)
    whole = ESCNPotential(model, dtype=torch.float64).evaluate(state, virial=True)
    cut = ESCNPotential(model, dtype=torch.float64, atoms_at_once=6).evaluate(state, virial=True)
    assert torch.allclose(whole.energy, cut.energy, rtol=0, atol=1e-12)
    assert torch.allclose(whole.forces, cut.forces, rtol=0, atol=1e-12)
    assert torch.allclose(whole.virial, cut.virial, rtol=0, atol=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
def test_compiled_it_says_the_same(model, periodic):
    cell = torch.diag(torch.tensor([3.0, 5.0, 4.5], dtype=torch.float64)) if periodic else None
    state = water(2, pbc=(periodic,) * 3, cell=cell)
    plain = ESCNPotential(model, dtype=torch.float64)
    how = Compiling(strict=True, backend="eager")
    compiled = ESCNPotential(model, dtype=torch.float64, compile=how)
    expected, found = (p.evaluate(state, virial=True) for p in (plain, compiled))
    for name in ("energy", "forces", "virial", "atom_energies"):
        given = (getattr(found, name), getattr(expected, name))
        torch.testing.assert_close(*given, rtol=1e-9, atol=1e-11)
    energies = compiled.energies(state)
    torch.testing.assert_close(energies, expected.energy, rtol=1e-12, atol=1e-12)
    assert compiled.compiled is not None
    assert compiled.compiled.n_compiled == 2
    assert not found.forces.requires_grad


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, [(1, 1)]), (8, [(8, 8)]), (13, [(8, 8), (8, 5)]), (10, [(8, 8), (1, 1), (1, 1)])],
)
def test_replicas_are_grouped_for_the_compiler(n, expected):
    state = water(n)
    groups = list(groups_of(state, 8))
    assert [(piece.n_replicas, count) for piece, count in groups] == expected
    kept = torch.cat([piece.positions[:count] for piece, count in groups])
    assert torch.equal(kept, state.positions)


def test_compiled_many_replicas_say_the_same_as_uncompiled(model):
    state = water(13)
    potential = ESCNPotential(model, dtype=torch.float64)
    expected = potential.evaluate(state, virial=True)
    potential.compile(Compiling(strict=True, backend="eager"))
    found = potential.evaluate(state, virial=True)
    for name in ("energy", "forces", "virial", "atom_energies"):
        given = (getattr(found, name), getattr(expected, name))
        torch.testing.assert_close(*given, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(potential.energies(state), expected.energy, rtol=1e-12, atol=1e-12)
    assert potential.compiled.n_compiled == 2


def test_virial_is_the_slope_under_strain(potential):
    cell = torch.diag(torch.tensor([3.0, 5.0, 4.5], dtype=torch.float64))
    state = water(1, pbc=(True,) * 3, cell=cell)
    virial = potential.evaluate(state, virial=True).virial[0]
    assert torch.allclose(virial, virial.T, rtol=0, atol=1e-12)
    for a in range(3):
        for b in range(a, 3):
            strain = torch.zeros((3, 3), dtype=torch.float64)
            strain[a, b] += 0.5
            strain[b, a] += 0.5
            ends = []
            for h in (1e-4, -1e-4):
                deform = torch.eye(3).double() + h * strain
                moved = state.with_(positions=state.positions @ deform, cell=state.cell @ deform)
                ends.append(float(potential.energies(moved)))
            slope = (ends[0] - ends[1]) / 2e-4
            assert slope == pytest.approx(-float(virial[a, b]), abs=1e-6)


def test_lone_atoms_feel_nothing(potential):
    state = State.at_rest(Molecule.from_numbers([8]), torch.zeros(2, 1, 3, dtype=torch.float64))
    found = potential.evaluate(state, virial=True)
    assert float(found.forces.abs().max()) == 0.0
    assert float(found.virial.abs().max()) == 0.0


def test_the_same_state_gives_the_same_bits(potential):
    first, second = (potential.evaluate(water()) for _ in range(2))
    assert torch.equal(first.energy, second.energy)
    assert torch.equal(first.forces, second.forces)


def test_the_users_model_stays_as_it_was(model):
    ESCNPotential(model, dtype=torch.float64)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    assert model.training


def test_comes_back_from_a_bundle(model, tmp_path):
    card = BundleCard(
        name="water",
        kind="escn",
        architecture=model.architecture(),
        elements=[1, 8],
        cutoff_A=4.0,
        dtype="float32",
        level_of_theory="none",
        temperature_range_K=(0.0, 300.0),
        training={},
        held_out={},
        versions={},
        citation="none",
    )
    folder = save_bundle(tmp_path / "water.bundle", card, model.state_dict())
    loaded = ESCNPotential.from_bundle(folder)
    assert torch.equal(loaded.energies(water()), ESCNPotential(model).energies(water()))


def test_names_the_atom_it_does_not_know(potential):
    state = State.at_rest(Molecule.from_numbers([8, 1, 2]), WATER)
    with pytest.raises(ValueError, match=r"atom 2 is He .* only H, O"):
        potential.evaluate(state)
    with pytest.raises(ValueError, match="atom 2 is He"):
        potential.energies(state)


def test_names_atoms_in_one_place(potential):
    positions = WATER.clone()
    positions[2] = positions[1]
    state = State.at_rest(Molecule.from_numbers([8, 1, 1]), positions)
    with pytest.raises(ValueError, match="atoms 1 and 2"):
        potential.evaluate(state)


def test_a_broken_network_is_noticed(model):
    with torch.no_grad():
        model.readout[0].weight[0, 0] = float("nan")
    broken = ESCNPotential(model)
    with pytest.raises(ValueError, match="energy of replica 0"):
        broken.evaluate(water())
    with pytest.raises(ValueError, match="energy of replica 0"):
        broken.energies(water())


@pytest.mark.parametrize(
    "settings", [{"dtype": torch.float16}, {"dtype": torch.int64}, {"atoms_at_once": 0}]
)
def test_refuses_settings_that_make_no_sense(model, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ESCNPotential(model, **settings)
