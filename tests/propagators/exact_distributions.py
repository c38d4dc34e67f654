"""Potentials of one coordinate whose distributions are known, and how to compare with them."""

from __future__ import annotations

import torch

from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State, maxwell_boltzmann
from egno_md.units import BOLTZMANN_EV_PER_K

KELVIN = 300.0
KT = BOLTZMANN_EV_PER_K * KELVIN
#: A true sample exceeds this times 1/sqrt(n) with a chance of 0.1 %.
KOLMOGOROV = 1.95
CARBON = Molecule.from_numbers([6])


class Separable:
    """Every coordinate in the same potential u(x), eV; counts its calls."""

    def __init__(self, u):
        self.u, self.calls = u, 0

    def evaluate(self, state):
        self.calls += 1
        with torch.enable_grad():
            x = state.positions.detach().clone().requires_grad_()
            energy = self.u(x)
            (slope,) = torch.autograd.grad(energy.sum(), x)
        return EnergyForces(energy.detach().double().sum((1, 2)), -slope)

    def energies(self, state):
        self.calls += 1
        return self.u(state.positions).double().sum((1, 2))


class MorseChain:
    """Atoms in a row, each bond a Morse oscillator; nothing else."""

    def __init__(self, depth=4.0, width=2.0, length=1.2):
        self.depth, self.width, self.length = depth, width, length

    def bond(self, r):
        return self.depth * (1.0 - torch.exp(-self.width * (r - self.length))) ** 2

    def evaluate(self, state):
        arrows = state.positions[:, 1:] - state.positions[:, :-1]
        r = arrows.norm(dim=-1, keepdim=True)
        decay = torch.exp(-self.width * (r - self.length))
        pull = 2.0 * self.depth * self.width * (1.0 - decay) * decay * arrows / r
        forces = torch.zeros_like(state.positions)
        forces[:, :-1] += pull
        forces[:, 1:] -= pull
        return EnergyForces(self.energies(state), forces)

    def energies(self, state):
        x = state.positions
        return self.bond((x[:, 1:] - x[:, :-1]).norm(dim=-1)).sum(1).double()


def harmonic(stiffness):
    return lambda x: 0.5 * stiffness * x**2


def double_well(barrier, minimum=0.3):
    return lambda x: barrier * ((x / minimum) ** 2 - 1.0) ** 2


def rows(n_replicas, x=0.0, seed=0):
    """Replicas of one carbon atom, all at one place, with thermal velocities."""
    generator = torch.Generator().manual_seed(seed)
    v = maxwell_boltzmann(CARBON, n_replicas, KELVIN, generator)
    return State(CARBON, torch.full((n_replicas, 1, 3), x, dtype=torch.float64), v)


def cumulated(density, low, high):
    """A grid from `low` to `high` and the share of a distribution below each of its points."""
    x = torch.linspace(low, high, 20_001, dtype=torch.float64)
    below = torch.cumulative_trapezoid(density(x), x)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), below / below[-1]])
    return x, below


def draws(shape, density, low, high, generator):
    """Independent draws, by inversion."""
    x, below = cumulated(density, low, high)
    lots = torch.rand(shape, generator=generator, dtype=torch.float64)
    return x[torch.searchsorted(below, lots).clamp(max=20_000)]


def misfit(sample, density, low, high):
    """Kolmogorov's distance from a distribution times the root of the number of samples.

    Args:
        sample: independent draws.
        density: of x, not normalised.
        low: where it begins.
        high: where it ends.
    """
    _, below = cumulated(density, low, high)
    found = sample.flatten().sort().values
    assert low < float(found[0])
    assert float(found[-1]) < high
    place = (found - low) / (high - low) * 20_000
    k = place.long().clamp(max=19_999)
    exact = below[k] + (place - k) * (below[k + 1] - below[k])
    n = len(found)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((exact - steps[:-1]).abs(), (steps[1:] - exact).abs()).max()
    return float(distance) * n**0.5


def boltzmann(u):
    return lambda x: torch.exp(-u(x) / KT)
