"""Distance networks against what holds exactly: gradients, symmetry, and who is alike."""

from __future__ import annotations

import pytest
import torch

from egno_md.data.structures import read_structure
from egno_md.models.distance_network import DistanceNetwork
from egno_md.models.molecule_parts import alike_atoms

ETHANOL = read_structure("egno_md/examples/ethanol.xyz")


def network(**changes):
    molecule = ETHANOL.molecule
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = DistanceNetwork(molecule.numbers.tolist(), molecule.bonds.tolist(), **changes)
    return made.double()


def shaken(n=5, by=0.1):
    noise = torch.randn(n, 9, 3, generator=torch.Generator().manual_seed(1)).double()
    return ETHANOL.positions.double() + by * noise


def scaled(model, x):
    """Scaled to made-up labels."""
    forces = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    model.scale_to(x, torch.linspace(-4210.0, -4208.0, len(x)).double(), forces)
    return model


def test_forces_are_minus_the_gradient():
    model, x = scaled(network(), shaken()), shaken().requires_grad_()
    energies, forces = model(x)
    (slope,) = torch.autograd.grad(energies.sum(), x)
    assert forces.abs().max() > 0.1
    torch.testing.assert_close(forces, -slope, rtol=1e-10, atol=1e-12)


def test_energy_stays_and_forces_turn_with_the_molecule_and_its_mirror_image():
    model, x = scaled(network(), shaken()), shaken()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5)).double())[
        0
    ]
    for turned in (turn, -turn):
        before, after = model(x), model(x @ turned.mT + torch.tensor([5.0, -3.0, 80.0]))
        torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(after[1], before[1] @ turned.mT, rtol=1e-8, atol=1e-10)


def test_no_net_force_and_no_torque():
    model, x = scaled(network(), shaken()), shaken()
    forces = model(x)[1]
    assert forces.sum(1).abs().max() < 1e-12
    assert torch.linalg.cross(x, forces).sum(1).abs().max() < 1e-11


def test_layers_worked_out_before_give_the_same():
    model, x = scaled(network(width=8), shaken()), shaken()
    once, again = model(x), model(x, model.folded())
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_energies_lie_about_the_mean_of_the_labels():
    model = scaled(network(width=4), shaken())
    assert model(shaken())[0].detach().mean().item() == pytest.approx(-4209.0, abs=3.0)


def test_single_precision_differs_by_rounding_only():
    model, x = scaled(network(), shaken()), shaken()
    energies, forces = model(x)
    single = model.float()(x)
    assert single[0].dtype == torch.float64
    torch.testing.assert_close(single[1], forces, rtol=1e-4, atol=1e-5)
    spread = (single[0] - energies) - (single[0] - energies).mean()
    assert spread.abs().max() < 1e-5


def test_alike_are_atoms_of_one_element_on_one_and_the_same_atom():
    groups = alike_atoms(ETHANOL.molecule.numbers.tolist(), ETHANOL.molecule.bonds.tolist())
    # CH3 and CH2; the hydrogen of OH is alone.
    assert sorted(len(group) for group in groups) == [2, 3]
    assert all(ETHANOL.molecule.numbers[list(group)].unique().tolist() == [1] for group in groups)
    assert alike_atoms([8, 1, 9], [(0, 1), (0, 2)]) == ()


def test_architecture_makes_it_again():
    model = network(width=16)
    again = DistanceNetwork.from_architecture(model.architecture()).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(shaken())[0], model(shaken())[0])
    assert again.elements == (1, 6, 8)


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
        DistanceNetwork(numbers, bonds, width=width)
