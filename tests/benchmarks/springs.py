"""Three atoms in a chain of two springs: a potential whose answers are known."""

import torch

from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State, maxwell_boltzmann

STIFFNESS = 20.0
LENGTHS = torch.tensor([1.0, 1.4], dtype=torch.float64)
MOLECULE = Molecule.from_numbers(torch.tensor([1, 6, 8]), bonds=torch.tensor([[0, 1], [1, 2]]))
REST = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.4, 0.0]], dtype=torch.float64)


class Springs:
    """E = k/2 (r - r0)^2 for each bond."""

    def evaluate(self, state):
        x, bonds = state.positions, state.molecule.bonds
        along = x[:, bonds[:, 1]] - x[:, bonds[:, 0]]
        length = along.norm(dim=-1)
        pull = STIFFNESS * ((length - LENGTHS) / length)[..., None] * along
        forces = torch.zeros_like(x)
        forces.index_add_(1, bonds[:, 0], pull)
        forces.index_add_(1, bonds[:, 1], -pull)
        return EnergyForces(0.5 * STIFFNESS * (length - LENGTHS).square().sum(-1), forces)

    def energies(self, state):
        return self.evaluate(state).energy


def start(n_replicas, kelvin=300.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    v = maxwell_boltzmann(MOLECULE, n_replicas, kelvin, generator)
    return State(MOLECULE, REST.expand(n_replicas, -1, -1).clone(), v)
