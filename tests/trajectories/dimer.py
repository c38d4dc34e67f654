"""Two atoms on one spring: a potential for tests of guards."""

import torch

from egno_md.roles import EnergyForces


class Dimer:
    """A spring of natural length 1 Å; refuses x > 50 Å."""

    def evaluate(self, state):
        arrow = state.positions[:, 0] - state.positions[:, 1]
        length = arrow.norm(dim=-1, keepdim=True)
        pull = -20.0 * (length - 1.0) * arrow / length
        return EnergyForces(self.energies(state), torch.stack([pull, -pull], 1))

    def energies(self, state):
        if bool((state.positions > 50.0).any()):
            raise ValueError("atoms too far away")
        length = (state.positions[:, 0] - state.positions[:, 1]).norm(dim=-1)
        return 10.0 * (length.double() - 1.0) ** 2
