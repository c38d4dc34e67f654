"""A distance network as a potential: its own molecule only, and fit to propose."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from egno_md.bonds import constitution
from egno_md.bundle import load_bundle, save_bundle
from egno_md.bundle_card import BundleCard
from egno_md.data.structures import read_structure
from egno_md.models.distance_network import DistanceNetwork
from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.distance_potential import DistancePotential
from egno_md.propagators.metropolised import Metropolised
from egno_md.propagators.potential_bundles import POTENTIAL_KINDS, potential_of
from egno_md.state import Molecule, State, maxwell_boltzmann

ETHANOL = read_structure("egno_md/examples/ethanol.xyz")


@pytest.fixture
def model():
    molecule = ETHANOL.molecule
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return DistanceNetwork(molecule.numbers.tolist(), molecule.bonds.tolist(), width=8).double()


@pytest.fixture
def bundle(model, tmp_path):
    molecule = ETHANOL.molecule
    card = BundleCard(
        name="quick",
        kind="distance",
        architecture=model.architecture(),
        elements=[1, 6, 8],
        molecules=[constitution(molecule.numbers, molecule.bonds)],
        dtype="float64",
    )
    return save_bundle(tmp_path / "quick.bundle", card, model.state_dict())


def state(molecule=None, n=3):
    x = ETHANOL.positions.double().expand(n, -1, -1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    return State.at_rest(ETHANOL.molecule if molecule is None else molecule, x + 0.05 * noise)


def test_a_bundle_gives_what_the_network_gives(model, bundle):
    potential = potential_of(load_bundle(bundle, kind=POTENTIAL_KINDS))
    assert isinstance(potential, DistancePotential)
    assert potential.elements == (1, 6, 8)
    found, wanted = potential.evaluate(state()), model(state().positions)
    assert torch.equal(found.energy, wanted[0].detach())
    assert torch.equal(found.forces, wanted[1].detach())
    assert torch.equal(potential.energies(state()), found.energy)


def test_the_network_given_is_copied(model):
    potential = DistancePotential(model)
    before = potential.energies(state())
    with torch.no_grad():
        model.last.weight += 1.0
    assert torch.equal(potential.energies(state()), before)


def test_another_order_of_atoms_is_refused(model):
    molecule = ETHANOL.molecule
    turned = molecule.numbers.flip(0)
    other = Molecule(turned, molecule.masses.flip(0))
    with pytest.raises(ValueError, match="same order of atoms: atom 0 is of element"):
        DistancePotential(model).evaluate(state(other))


def test_another_number_of_atoms_is_refused(model):
    few = Molecule(ETHANOL.molecule.numbers[:8], ETHANOL.molecule.masses[:8])
    there = State.at_rest(few, ETHANOL.positions[:, :8].double())
    with pytest.raises(ValueError, match="there are 8 atoms and there 9"):
        DistancePotential(model).evaluate(there)


def test_other_bonds_are_refused(model):
    other = replace(ETHANOL.molecule, bonds=ETHANOL.molecule.bonds[1:])
    with pytest.raises(ValueError, match="the bond between atoms"):
        DistancePotential(model).evaluate(state(other))


@pytest.mark.parametrize("name", ["ethanol", "aspirin", "naphthalene"])
def test_without_bonds_another_order_is_found_from_the_places(name):
    """Every exchange of two atoms that makes another molecule of it, and no other."""
    known = read_structure(f"egno_md/examples/{name}.xyz")
    numbers, bonds = known.molecule.numbers, known.molecule.bonds
    potential = DistancePotential(DistanceNetwork(numbers.tolist(), bonds.tolist(), width=2))
    mine = {tuple(pair) for pair in bonds.tolist()}
    refused = kept = 0
    for i, j in torch.combinations(torch.arange(len(numbers))).tolist():
        if numbers[i] != numbers[j]:
            continue
        order = torch.arange(len(numbers))
        order[[i, j]] = torch.tensor([j, i])
        moved = {tuple(sorted(order[list(pair)].tolist())) for pair in mine}
        # Looked at once for each molecule.
        nameless = Molecule(numbers, known.molecule.masses)
        there = State.at_rest(nameless, known.positions[:, order].double())
        if moved == mine:
            potential._check(there)
            kept += 1
        else:
            with pytest.raises(ValueError, match=r"are bonded there and \d\.\d\d Å apart here"):
                potential._check(there)
            refused += 1
    assert refused > 10
    assert kept == {"ethanol": 4, "aspirin": 3, "naphthalene": 0}[name]


def test_without_bonds_stretched_ones_are_believed(model):
    """A start far from rest is no other order; nor are several replicas, one of them torn."""
    potential = DistancePotential(model)
    nameless = Molecule(ETHANOL.molecule.numbers, ETHANOL.molecule.masses)
    x = ETHANOL.positions.double()
    potential._check(State.at_rest(nameless, 1.4 * x))
    fresh = DistancePotential(model)
    fresh._check(State.at_rest(nameless, torch.cat([x, 3.0 * x])))
    with pytest.raises(ValueError, match="or start from a geometry in which its bonds are not"):
        DistancePotential(model)._check(State.at_rest(nameless, 3.0 * x))


def test_atoms_in_one_place_give_an_error_and_no_number(model):
    x = ETHANOL.positions.double().clone()
    x[0, 1] = x[0, 0]
    with pytest.raises(ValueError, match="the energy of replica 0 came out as nan"):
        DistancePotential(model).evaluate(State.at_rest(ETHANOL.molecule, x))


def test_a_bundle_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="'escn'; 'distance' is needed"):
        DistancePotential.from_bundle("ethanol-escn")
    with pytest.raises(ValueError, match="'egno'; 'escn' or 'distance' is needed"):
        load_bundle("ethanol-egno", kind=POTENTIAL_KINDS)


def test_its_dynamics_may_propose(model):
    """An untrained network proposes badly, yet reversibly; of itself all is accepted."""
    draw = torch.Generator().manual_seed(1)
    potential = DistancePotential(model)
    v = maxwell_boltzmann(ETHANOL.molecule, 4, 300.0, draw)
    start = State(ETHANOL.molecule, state(n=4).positions, v)
    proposal = VelocityVerlet(potential, 0.5, 8.0, 1)
    sampler = Metropolised(proposal, potential, 300.0, 10.0, draw)
    sampler.advance(start, 5)
    assert sampler.statistics().acceptance > 0.95
