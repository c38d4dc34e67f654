"""A small eSCN of water, and OpenMM systems of it: what the tests of OpenMM's doors share."""

from __future__ import annotations

import numpy as np
import openmm
import torch
from openmm import app

from egno_md.bundle import BundleCard, save_bundle
from egno_md.models.escn_md import ESCNMD
from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State
from egno_md.units import KJ_PER_MOL, NM_PER_A

WATER_A = np.array([[0.0, 0.0, 0.0], [0.0, 0.96, 0.0], [0.93, -0.24, 0.0]])
PLATFORMS = ["Reference", "CPU"]


def save_water_bundle(folder, channels=4, seed=0):
    """A bundle with an untrained network of H and O."""
    torch.manual_seed(seed)
    model = ESCNMD([1, 8], channels=channels, hidden_channels=4, radial_hidden=8, cutoff_A=3.0)
    card = BundleCard(
        name="water",
        kind="escn",
        architecture=model.architecture(),
        elements=[1, 8],
        cutoff_A=3.0,
        level_of_theory="none",
        temperature_range_K=(0.0, 300.0),
    )
    return save_bundle(folder, card, model.state_dict())


def waters(n, spacing_A=3.1, seed=1):
    """Positions of `n` waters in a row of cubes, shaken, `(3 n, 3)` nm, and their numbers."""
    noise = np.random.default_rng(seed).normal(0.0, 0.03, (3 * n, 3))
    side = int(np.ceil(n ** (1 / 3)))
    grid = np.array([(i, j, k) for i in range(side) for j in range(side) for k in range(side)])
    x = (grid[:n, None] * spacing_A + WATER_A).reshape(-1, 3) + noise
    return x * NM_PER_A, [8, 1, 1] * n


def topology(numbers, box_nm=None, bonds=()):
    """A topology of one residue; number 0 is a particle without an element."""
    made = app.Topology()
    residue = made.addResidue("MOL", made.addChain())
    for i, z in enumerate(numbers):
        made.addAtom(f"A{i}", app.Element.getByAtomicNumber(z) if z else None, residue)
    atoms = list(made.atoms())
    for i, j in bonds:
        made.addBond(atoms[i], atoms[j])
    if box_nm is not None:
        made.setPeriodicBoxVectors(np.asarray(box_nm) if np.ndim(box_nm) else np.eye(3) * box_nm)
    return made


def system_of(numbers, *forces, box_nm=None):
    """A System with these particles and forces."""
    system = openmm.System()
    for z in numbers:
        system.addParticle({0: 0.0, 1: 1.008, 8: 15.999}[z])
    if box_nm is not None:
        vectors = np.asarray(box_nm) if np.ndim(box_nm) else np.eye(3) * box_nm
        system.setDefaultPeriodicBoxVectors(*vectors)
    for force in forces:
        system.addForce(force)
    return system


def context_of(system, x_nm, platform="Reference", integrator=None):
    """A Context at some positions."""
    made = openmm.Context(
        system,
        integrator or openmm.VerletIntegrator(0.0005),
        openmm.Platform.getPlatformByName(platform),
    )
    made.setPositions(x_nm)
    return made


def energy_forces(context, groups=-1):
    """Energy, kJ/mol, and forces, kJ/mol/nm."""
    found = context.getState(getEnergy=True, getForces=True, groups=groups)
    return found.getPotentialEnergy()._value, np.array(found.getForces(asNumpy=True)._value)


def slope(context, particle, axis, step_nm=2e-5):
    """The energy's difference quotient, kJ/mol/nm."""
    x = np.array(context.getState(getPositions=True).getPositions(asNumpy=True)._value)
    ends = []
    for sign in (1, -1):
        moved = x.copy()
        moved[particle, axis] += sign * step_nm
        context.setPositions(moved)
        context.computeVirtualSites()
        ends.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
    context.setPositions(x)
    return (ends[0] - ends[1]) / (2 * step_nm)


def asked_directly(potential, x_nm, numbers, box_nm=None):
    """What the potential says, in OpenMM's units."""
    molecule = Molecule.from_numbers(numbers, pbc=(box_nm is not None,) * 3)
    cell = None
    if box_nm is not None:
        vectors = np.asarray(box_nm) if np.ndim(box_nm) else np.eye(3) * box_nm
        cell = torch.from_numpy(vectors / NM_PER_A)
    state = State.at_rest(molecule, torch.from_numpy(x_nm / NM_PER_A), cell=cell)
    found = potential.evaluate(state)
    return (
        float(found.energy[0]) / KJ_PER_MOL,
        found.forces[0].double().numpy() / (KJ_PER_MOL * NM_PER_A),
    )


class Counting:
    """Springs to the origin, that count how often they are asked."""

    elements = (1, 8)

    def __init__(self, spring_eV_per_A2=0.5):
        self.spring, self.calls = spring_eV_per_A2, 0
        self.gradients_on = None

    def evaluate(self, state, virial=False):
        self.calls += 1
        x = state.positions.clone().requires_grad_()
        energy = 0.5 * self.spring * x.square().sum((1, 2))
        self.gradients_on = energy.requires_grad and not x.is_inference()
        (found,) = torch.autograd.grad(energy.sum(), x)
        return EnergyForces(energy.detach().double(), -found)

    def energies(self, state):
        return self.evaluate(state).energy
