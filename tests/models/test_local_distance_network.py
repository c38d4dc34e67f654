"""Networks of parts against what holds exactly: gradients, symmetry, molecules changing places."""

from __future__ import annotations

import pytest
import torch

from egno_md.data.structures import read_structure
from egno_md.models.local_distance_network import POWERS, LocalDistanceNetwork

ASPIRIN = read_structure("egno_md/examples/aspirin.xyz")
WATERS = ([8, 1, 1] * 3, [(3 * k, 3 * k + j) for k in range(3) for j in (1, 2)])


def noise(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def filled(numbers, bonds, x, **changes):
    """A network with random weights in every term, scaled to made-up labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LocalDistanceNetwork(numbers, bonds, **changes).double()
        with torch.no_grad():
            model.own_far.normal_()
            model.shared_far.normal_()
    model.scale_to(x, torch.linspace(-10.0, -8.0, len(x)).double(), noise(2, *x.shape))
    return model


def aspirin(by=0.1):
    x = ASPIRIN.positions.double() + by * noise(1, 5, 21, 3)
    molecule = ASPIRIN.molecule
    return filled(molecule.numbers.tolist(), molecule.bonds.tolist(), x, width=8), x


def waters():
    place = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]).double()
    x = torch.cat([place, place + 3.0, place + torch.tensor([3.0, 0.0, -1.0])])
    x = x + 0.05 * noise(4, 6, 9, 3)
    return filled(*WATERS, x, width=8), x


def test_forces_are_minus_the_gradient():
    for model, x in (aspirin(), waters()):
        y = x.clone().requires_grad_()
        energies, forces = model(y)
        (slope,) = torch.autograd.grad(energies.sum(), y)
        assert forces.abs().max() > 0.1
        torch.testing.assert_close(forces, -slope, rtol=1e-9, atol=1e-11)


def test_forces_are_minus_the_gradient_closer_than_any_pair_that_was_seen():
    model, x = waters()
    y = x.clone()
    y[:, 3:6] -= 2.5
    y.requires_grad_()
    reach = model.folded().reach_A
    close = model.inverse_distances(y.detach())[:, model.far_pairs] * reach > 1.0
    assert close.any()
    energies, forces = model(y)
    (slope,) = torch.autograd.grad(energies.sum(), y)
    torch.testing.assert_close(forces, -slope, rtol=1e-9, atol=1e-11)


def test_energy_stays_and_forces_turn_with_the_molecule_and_its_mirror_image():
    model, x = aspirin()
    turn = torch.linalg.qr(noise(5, 3, 3))[0]
    for turned in (turn, -turn):
        before, after = model(x), model(x @ turned.mT + torch.tensor([5.0, -3.0, 80.0]))
        torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(after[1], before[1] @ turned.mT, rtol=1e-7, atol=1e-9)


def test_no_net_force_and_no_torque():
    model, x = waters()
    forces = model(x)[1]
    assert forces.sum(1).abs().max() < 1e-12
    assert torch.linalg.cross(x, forces).sum(1).abs().max() < 1e-11


def test_far_pairs_hold_charges_exactly():
    """With the layers silenced what is left is a sum of powers, as a force field has it."""
    model, x = aspirin()
    with torch.no_grad():
        model.last_weight.zero_()
        model.shared_far.zero_()
        model.own_far.zero_()
        model.own_far[:, POWERS.index(1)] = 0.5
    energies, _ = model(x)
    r = (x[:, :, None] - x[:, None]).norm(dim=-1)
    i, j = torch.tensor(model.pairs)[model.far_pairs].T
    charges = 0.5 * model.energy_scale_eV * model.folded().reach_A
    expected = (charges / r[:, i, j]).sum(1) + model.energy_offset_eV
    torch.testing.assert_close(energies, expected, rtol=1e-10, atol=1e-10)


def test_atoms_far_within_one_another_are_pushed_apart():
    model, x = waters()
    with torch.no_grad():
        model.last_weight.zero_()
    # However wrong the powers are, a close contact costs energy in the end.
    y = x[:1].clone()
    y[:, 3:6] = y[:, :3] + 0.05
    with torch.no_grad():
        assert float(model(y)[0]) > float(model(x[:1])[0]) + 1.0


def test_closer_contacts_are_taken_in_and_the_energy_stays():
    model, x = waters()
    before = model(x)
    closer = x.clone()
    closer[:, 3:6] -= 0.5 * (closer[:, 3:6].mean(1) - closer[:, :3].mean(1))[:, None]
    outside = model.inverse_distances(closer)[:, model.far_pairs] * model.folded().reach_A
    assert outside.max() > 1.0
    model.widen_to(closer)
    inside = model.inverse_distances(closer)[:, model.far_pairs] * model.folded().reach_A
    assert 0.8 < inside.max() < 1.0
    for old, new in zip(before, model(x), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-9)
    same = model.folded()
    model.widen_to(x)
    assert torch.equal(model.folded().far, same.far)


def test_molecules_of_one_kind_share_their_weights():
    model, _ = waters()
    assert len(model.first_weight) == 3  # alone, in twos, in threes
    alone = model.class_of_part[:3].unique()
    assert len(alone) == 1
    mean = model.inverse_mean[model.pair_class]
    pair = {p: k for k, p in enumerate(model.pairs)}
    assert mean[pair[0, 1]] == mean[pair[3, 4]] == mean[pair[6, 7]]
    assert mean[pair[0, 4]] == mean[pair[1, 3]]


def test_shuffled_orders_are_of_the_same_molecules():
    model, _ = waters()
    orders = model.shuffled(200, torch.Generator().manual_seed(7))
    numbers = torch.tensor(model.numbers)
    assert (numbers[orders] == numbers).all()
    assert (orders.sort(1).values == torch.arange(9)).all()
    # Hydrogens stay with their oxygen; molecules and hydrogens change places.
    assert (orders[:, 1:3] // 3 == orders[:, :1] // 3).all()
    assert len(orders.unique(dim=0)) == 48


def test_layers_worked_out_before_give_the_same():
    model, x = aspirin()
    once, again = model(x), model(x, model.folded())
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_single_precision_differs_by_rounding_only():
    model, x = aspirin()
    energies, forces = model(x)
    single = model.float()(x)
    assert single[0].dtype == torch.float64
    torch.testing.assert_close(single[1], forces, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(single[0], energies, rtol=0, atol=1e-3)


def test_architecture_makes_it_again():
    model, x = waters()
    again = LocalDistanceNetwork.from_architecture(model.architecture()).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x)[0], model(x)[0])
    assert (again.elements, again.width, again.cutoff_A) == ((1, 8), 8, None)


@pytest.mark.parametrize(
    ("numbers", "bonds", "width", "said"),
    [
        ([1], [], 8, "two atoms or more, got 1"),
        ([1, 1], [(0, 2)], 8, "bond 0-2 does not join two of the atoms 0 to 1"),
        ([1, 1], [(0, 1)], 0, "width must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(numbers, bonds, width, said):
    with pytest.raises(ValueError, match=said):
        LocalDistanceNetwork(numbers, bonds, width=width)
