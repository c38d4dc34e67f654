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
