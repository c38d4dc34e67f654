import json

import pytest
import torch

from egno_md.models.escn_md import ESCNMD
from egno_md.models.neighbours import find_neighbours
from egno_md.models.repulsion import Repulsion

ETHANOL = [6, 6, 8, 1, 1, 1, 1, 1, 1]
# A conformer with the C-C bond exactly along y, the direction where angles break down.
POSITIONS = torch.tensor(
    [
        [0.0, 0.0, 0.0],
        [0.0, 1.52, 0.0],
        [1.34, 1.98, 0.0],
        [1.02, -0.39, 0.0],
        [-0.51, -0.39, 0.89],
        [-0.51, -0.39, -0.89],
        [-0.52, 1.91, 0.89],
        [-0.52, 1.91, -0.89],
        [1.79, 1.68, 0.79],
    ],
    dtype=torch.float64,
)


def make(seed=0, **settings):
    torch.manual_seed(seed)
    sizes = {"channels": 8, "hidden_channels": 8, "radial_hidden": 16, "cutoff_A": 4.0}
    return ESCNMD([1, 6, 8], **{**sizes, **settings}).double()


def energies(model, positions, numbers, cell=None, pbc=(False,) * 3):
    near = find_neighbours(positions, model.cutoff_A, cell, pbc)
    z = torch.tensor(numbers).repeat(near.n_graphs)
    flat = positions.reshape(-1, 3)
    return model(flat, z, near.edge_index, near.shifts, near.batch, near.n_graphs)


def energy_and_forces(model, positions, numbers, cell=None, pbc=(False,) * 3):
    places = positions.clone().requires_grad_()
    energy = energies(model, places, numbers, cell, pbc)
    (slope,) = torch.autograd.grad(energy.sum(), places, allow_unused=True)
    return energy.detach(), torch.zeros_like(places) if slope is None else -slope


@pytest.fixture
def shaken():
    draw = torch.Generator().manual_seed(5)
    noise = torch.randn((3, 9, 3), generator=draw, dtype=torch.float64)
    return POSITIONS + 0.05 * noise


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mirror": True},
        {"max_degree": 3, "max_order": 2, "n_layers": 1},
        {"max_degree": 1, "max_order": 0},
        {"radial_kind": "gaussian"},
        {"max_degree": 0, "max_order": 0},
    ],
)
def test_energy_is_invariant_and_forces_turn(shaken, settings):
    model = make(**settings)
    q, _ = torch.linalg.qr(torch.randn((3, 3), dtype=torch.float64))
    q = q * torch.linalg.det(q)
    before = energy_and_forces(model, shaken, ETHANOL)
    after = energy_and_forces(model, shaken @ q.T, ETHANOL)
    assert torch.allclose(before[0], after[0], rtol=0, atol=1e-10)
    assert torch.allclose(before[1] @ q.T, after[1], rtol=0, atol=1e-10)
    assert float(before[1].abs().max()) > 1e-3


@pytest.mark.parametrize("mirror", [False, True])
def test_mirror_images_have_one_energy_only_when_told_to(shaken, mirror):
    model = make(mirror=mirror)
    same = torch.allclose(
        energies(model, shaken, ETHANOL), energies(model, -shaken, ETHANOL), rtol=0, atol=1e-10
    )
    assert same is mirror


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_forces_at_the_poles_are_the_slope(sign):
    """Bonds exactly along +y and -y: where angles would give a wrong gradient."""
    model = make()
    places = sign * POSITIONS[None]
    _, forces = energy_and_forces(model, places, ETHANOL)
    for atom in (0, 1):
        for axis in range(3):
            step = torch.zeros_like(places)
            step[0, atom, axis] = 1e-4
            ahead, behind = (energies(model, places + s * step, ETHANOL) for s in (1, -1))
            slope = float((ahead - behind).detach()) / 2e-4
            assert slope == pytest.approx(-float(forces[0, atom, axis]), abs=1e-7)


def test_differentiable_twice_at_the_poles():
    model = make(channels=4, hidden_channels=4, radial_hidden=4, n_layers=1)
    water = torch.tensor([[[0.0, 0, 0], [0, 0.96, 0], [0, -0.96, 0.02]]], dtype=torch.float64)

    def energy(places):
        return energies(model, places, [8, 1, 1])

    assert torch.autograd.gradcheck(energy, (water.requires_grad_(),))
    assert torch.autograd.gradgradcheck(energy, (water,))


def test_forces_are_smooth_through_the_seam_of_the_frame():
    """At y = 0 the frame changes its chart; energy and forces must not notice."""
    model = make()
    places = torch.zeros((3, 2, 3), dtype=torch.float64)
    places[:, 1] = torch.tensor([1.1, 0.0, 0.4])
    places[:, 1, 1] = torch.tensor([-1e-9, 0.0, 1e-9])
    places = torch.cat((places, places.new_tensor([-0.7, 1.2, 0.5]).expand(3, 1, 3)), 1)
    energy, forces = energy_and_forces(model, places, [8, 1, 6])
    assert float((energy - energy[1]).abs().max()) < 1e-8
    assert float((forces - forces[1]).abs().max()) < 1e-7


def test_batch_and_order_do_not_matter(shaken):
    model = make()
    energy, forces = energy_and_forces(model, shaken, ETHANOL)
    order = torch.randperm(9)
    for r in range(3):
        alone = energy_and_forces(
            model, shaken[r : r + 1, order], [ETHANOL[i] for i in order.tolist()]
        )
        assert torch.allclose(alone[0], energy[r : r + 1], rtol=0, atol=1e-10)
        assert torch.allclose(alone[1][0], forces[r, order], rtol=0, atol=1e-10)


def test_two_far_copies_have_twice_the_energy(shaken):
    model = make()
    both = torch.cat((shaken, shaken.flip(0) + 50.0), 1)
    single = energies(model, shaken, ETHANOL)
    found = energies(model, both, ETHANOL * 2)
    assert torch.allclose(found, single + single.flip(0), rtol=0, atol=1e-10)


def test_nothing_is_felt_at_the_cutoff():
    model = make()
    gaps = 4.0 + torch.tensor([-1e-4, -1e-9, 0.0, 1e-9, 1.0], dtype=torch.float64)
    places = torch.zeros((5, 2, 3), dtype=torch.float64)
    places[:, 1, 0] = gaps
    energy, forces = energy_and_forces(model, places, [1, 8])
    alone = energies(model, places[:1, :1], [1]) + energies(model, places[:1, :1], [8])
    assert torch.allclose(energy, alone.expand(5), rtol=0, atol=1e-12)
    assert float(forces[2:].abs().max()) == 0.0
    assert float(forces.abs().max()) < 1e-7


def test_force_slope_is_continuous_at_the_cutoff():
    """Twice continuous: the stiffness, too, goes to zero from within."""
    model = make()

    def stiffness(gap):
        places = torch.tensor([[[0.0, 0, 0], [gap, 0, 0]]], dtype=torch.float64)
        places.requires_grad_()
        energy = energies(model, places, [1, 8]).sum()
        (slope,) = torch.autograd.grad(energy, places, create_graph=True)
        (curvature,) = torch.autograd.grad(slope[0, 1, 0], places)
        return abs(float(curvature[0, 1, 0]))

    assert stiffness(4.0 - 1e-6) < 1e-4 * stiffness(3.0)


def test_a_lone_atom_has_its_energy_and_no_force():
    model = make(reference_energies_eV=[-13.6, -1030.0, -2040.0])
    energy, forces = energy_and_forces(model, torch.zeros(2, 1, 3).double(), [6])
    assert float(energy[0]) == float(energy[1])
    assert abs(float(energy[0]) + 1030.0) < 10.0
    assert float(forces.abs().max()) == 0.0


def test_crystals_do_not_care_for_wrapping(shaken):
    model = make()
    # Thinner than the cutoff along every vector.
    cell = torch.tensor([[3.5, 0, 0], [0.5, 3.8, 0], [0, 0, 3.9]]).double().expand(1, 3, 3)
    places = shaken[:1, :4]
    hops = torch.tensor([[0.0, 1, 0], [2, 0, -1], [0, 0, 0], [-3, 1, 1]]).double()
    here = energy_and_forces(model, places, [6, 6, 8, 1], cell, (True,) * 3)
    there = energy_and_forces(model, places + hops @ cell[0], [6, 6, 8, 1], cell, (True,) * 3)
    assert torch.allclose(here[0], there[0], rtol=0, atol=1e-10)
    assert torch.allclose(here[1], there[1], rtol=0, atol=1e-10)
    opened = energy_and_forces(model, places, [6, 6, 8, 1])
    assert not torch.allclose(here[0], opened[0], rtol=0, atol=1e-4)


def test_a_doubled_cell_has_twice_the_energy(shaken):
    model = make()
    cell = torch.diag(torch.tensor([3.5, 3.8, 3.9])).double()[None]
    places = shaken[:1, :4]
    double = torch.cat((places, places + cell[:, 1:2]), 1)
    large = cell.clone()
    large[:, 1] *= 2
    one = energies(model, places, [6, 6, 8, 1], cell, (True,) * 3)
    two = energies(model, double, [6, 6, 8, 1] * 2, large, (True,) * 3)
    assert torch.allclose(two, 2 * one, rtol=0, atol=1e-10)


def test_single_precision_keeps_the_forces_far_from_the_origin(shaken):
    settings = {"reference_energies_eV": [-13.6, -1030.0, -2040.0]}
    fine, coarse = make(**settings), make(**settings).float()
    energy, forces = energy_and_forces(fine, shaken, ETHANOL)
    # Differences are taken before the cast, references added after it.
    rough_energy, rough_forces = energy_and_forces(coarse, shaken + 1000.0, ETHANOL)
    assert rough_energy.dtype == torch.float64
    assert float((rough_energy - energy).abs().max()) < 9e-5
    assert float((rough_forces - forces).abs().max()) < 1e-4 * float(forces.abs().max())


def test_the_architecture_builds_the_same_model(shaken):
    model = make(n_layers=1, reference_energies_eV=[0.1, 0.2, 0.3], energy_scale_eV=2.5)
    settings = json.loads(json.dumps(model.architecture()))
    again = ESCNMD.from_architecture(settings)
    again.load_state_dict(model.state_dict())
    assert again.architecture() == model.architecture()
    assert torch.equal(energies(again.double(), shaken, ETHANOL), energies(model, shaken, ETHANOL))


def test_every_parameter_takes_part(shaken):
    """A weight without a gradient of the force loss would be dead weight."""
    model = make()
    places = shaken.clone().requires_grad_()
    energy = energies(model, places, ETHANOL)
    (slope,) = torch.autograd.grad(energy.sum(), places, create_graph=True)
    loss = energy.square().mean() + slope.square().mean()
    loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().max()) > 0.0, name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "egno"}, "escn-md"),
        ({"width": 3}, "width"),
        ({"elements": [1, 1]}, "different"),
        ({"elements": [0]}, "atomic numbers"),
        ({"reference_energies_eV": [1.0]}, "reference"),
        ({"max_order": 9}, "max_order"),
        ({"radial_kind": "none"}, "radial"),
        ({"channels": 10**9}, "channels"),
        ({"n_layers": 2.5}, "n_layers"),
        ({"max_degree": -1}, "max_degree"),
        ({"cutoff_A": 0.0}, "cutoff_A"),
        ({"energy_scale_eV": float("nan")}, "energy_scale_eV"),
        ({"reference_energies_eV": [1.0, 2.0, float("inf")]}, "reference"),
    ],
)
def test_refuses_architectures_that_make_no_sense(change, words):
    with pytest.raises(ValueError, match=words):
        ESCNMD.from_architecture({**make().architecture(), **change})


def test_repulsion_is_added_to_pairs_closer_than_bonds():
    settings = {"cutoff_A": 4.0, "max_degree": 1, "max_order": 1, "channels": 4, "n_layers": 1}
    energies = {}
    for repulsion in (False, True):
        torch.manual_seed(0)
        model = ESCNMD([1, 8], repulsion=repulsion, **settings).double()
        again = ESCNMD.from_architecture(model.architecture())
        assert again.architecture()["repulsion"] is repulsion
        for d in (0.3, 3.0):
            x = torch.tensor([[0.0, 0.0, 0.0], [d, 0.0, 0.0]], dtype=torch.float64)
            edges = torch.tensor([[0, 1], [1, 0]])
            numbers, batch = torch.tensor([8, 1]), torch.zeros(2, dtype=torch.int64)
            shifts = torch.zeros(2, 3, dtype=torch.float64)
            energies[repulsion, d] = model(x, numbers, edges, shifts, batch, 1).item()
    pair = Repulsion().double()(
        torch.tensor([0.3], dtype=torch.float64), torch.tensor([8]), torch.tensor([1])
    )
    assert energies[True, 0.3] - energies[False, 0.3] == pytest.approx(float(pair), rel=1e-9)
    assert energies[True, 3.0] == energies[False, 3.0]
    with pytest.raises(ValueError, match="repulsion must be true or false"):
        ESCNMD([1], repulsion="yes")
