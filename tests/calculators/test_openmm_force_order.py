"""Quick copies in OpenMM want the atoms in their order; topologies say who is bonded to whom."""

import openmm
import pytest
from openmm import app, unit

from egno_md.calculators.openmm_evaluation import ForceEvaluation, ForcePlan
from egno_md.calculators.openmm_force import openmm_force
from egno_md.calculators.shared_models import ModelSource
from egno_md.data.structures import read_structure
from egno_md.propagators.distance_potential import DistancePotential
from egno_md.state import State
from tests.calculators.wells import REFERENCE

ETHANOL = read_structure("egno_md/examples/ethanol.xyz")
NUMBERS = ETHANOL.molecule.numbers.tolist()
#: C0 and C1, H3 and H8 change places: the elements are as before.
SWAPPED = [1, 0, 2, 8, 4, 5, 6, 7, 3]


def topology(order, bonds=True, before=0):
    """Ethanol with atom `order[k]` at place k, after some atoms of argon."""
    made = app.Topology()
    chain = made.addChain()
    for _ in range(before):
        made.addAtom("Ar", app.Element.getBySymbol("Ar"), made.addResidue("AR", chain))
    residue = made.addResidue("ETH", chain)
    atoms = [
        made.addAtom(f"A{k}", app.Element.getByAtomicNumber(NUMBERS[old]), residue)
        for k, old in enumerate(order)
    ]
    for i, j in ETHANOL.molecule.bonds.tolist() if bonds else []:
        made.addBond(atoms[order.index(j)], atoms[order.index(i)])
    return made


def energy_eV(force, order):
    system = openmm.System()
    for _ in order:
        system.addParticle(12.0)
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), REFERENCE)
    context.setPositions(ETHANOL.positions[0][order].numpy() * 0.1)
    return context.getState(energy=True).getPotentialEnergy() / unit.kilojoule_per_mole / 96.485332


def quick():
    return DistancePotential.from_bundle("ethanol-distance")


def test_in_its_own_order_it_gives_its_energy():
    own = list(range(9))
    expected = float(quick().energies(State.at_rest(ETHANOL.molecule, ETHANOL.positions))[0])
    for given in (topology(own), topology(own, bonds=False), NUMBERS):
        assert energy_eV(openmm_force(quick(), given), own) == pytest.approx(expected, abs=1e-3)


def test_in_another_order_the_bonds_of_the_topology_give_it_away():
    with pytest.raises(openmm.OpenMMException, match="is there in one of them only"):
        energy_eV(openmm_force(quick(), topology(SWAPPED)), SWAPPED)


@pytest.mark.parametrize("given", [topology(SWAPPED, bonds=False), NUMBERS])
def test_in_another_order_the_places_give_it_away(given):
    with pytest.raises(openmm.OpenMMException, match="are bonded there and"):
        energy_eV(openmm_force(quick(), given), SWAPPED)


def test_bonds_are_counted_among_the_chosen_atoms_and_survive_pickling():
    force = openmm_force(quick(), topology(list(range(9)), before=3), range(3, 12))
    context_free = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(force))
    assert isinstance(context_free, openmm.PythonForce)
    bonds = tuple((i, j) for i, j in ETHANOL.molecule.bonds.tolist())
    plan = ForcePlan(ModelSource("a", "0" * 64, "cpu", None), (6, 1), False, bonds=bonds)
    make, given = ForceEvaluation(plan).__reduce__()
    assert make(*given).plan == plan
    assert make(*given[:-1]).plan.bonds == ()


def test_bonds_of_a_liquid_take_few_bytes():
    waters = tuple((3 * m, 3 * m + k) for m in range(2000) for k in (1, 2))
    plan = ForcePlan(ModelSource("a", "0" * 64, "cpu", None), (8, 1, 1) * 2000, True, bonds=waters)
    make, given = ForceEvaluation(plan).__reduce__()
    assert len(given[-1]) < 200
    assert make(*given).plan.bonds == waters
