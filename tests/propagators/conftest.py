from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from egno_md.roles import EnergyForces
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule, State
from egno_md.units import ACCELERATION_PER_FORCE


class Harmonic:
    """Every coordinate on its own spring to zero; counts how often it is asked."""

    def __init__(self, stiffness=5.0, quartic=0.0):
        self.stiffness, self.quartic, self.calls = stiffness, quartic, 0

    def evaluate(self, state):
        self.calls += 1
        x = state.positions
        forces = -self.stiffness * x - self.quartic * x**3
        return EnergyForces(self.energies(state), forces)

    def energies(self, state):
        x = state.positions.double()
        return (0.5 * self.stiffness * x**2 + 0.25 * self.quartic * x**4).sum((1, 2))

    def frequency(self, mass):
        """Angular frequency, 1/fs."""
        return (self.stiffness * ACCELERATION_PER_FORCE / mass) ** 0.5


class Dimer:
    """Two atoms on one spring of natural length 1 Å."""

    def __init__(self, stiffness=20.0):
        self.stiffness = stiffness

    def evaluate(self, state):
        arrow = state.positions[:, 0] - state.positions[:, 1]
        length = arrow.norm(dim=-1, keepdim=True)
        pull = -self.stiffness * (length - 1.0) * arrow / length
        return EnergyForces(self.energies(state), torch.stack([pull, -pull], 1))

    def energies(self, state):
        length = (state.positions[:, 0] - state.positions[:, 1]).norm(dim=-1)
        return 0.5 * self.stiffness * (length.double() - 1.0) ** 2


class Damaged:
    """A propagator whose frames say NETWORK and are changed by `damage(segment)` in place."""

    def __init__(self, inner, damage=lambda segment: None):
        self.inner, self.damage = inner, damage
        self.frame_interval_fs, self.n_frames = inner.frame_interval_fs, inner.n_frames
        self.reversible = self.volume_preserving = True

    def advance(self, state, n_frames=None) -> Segment:
        segment = self.inner.advance(state, n_frames)
        made_by = torch.full_like(segment.made_by, int(MadeBy.NETWORK))
        segment = replace(segment, made_by=made_by, potential_energies=torch.zeros(0))
        self.damage(segment)
        return segment

    def restart_state(self):
        return self.inner.restart_state()

    def restore(self, saved):
        self.inner.restore(saved)


@pytest.fixture
def harmonic():
    return Harmonic


@pytest.fixture
def dimer_potential():
    return Dimer()


@pytest.fixture
def damaged():
    return Damaged


@pytest.fixture
def crowd():
    """Five replicas of a carbon and a hydrogen with random places and speeds."""
    generator = torch.Generator().manual_seed(11)
    shape = (5, 2, 3)
    x = 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    v = 0.01 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return State(Molecule.from_numbers([6, 1]), x, v, time_fs=10.0)


@pytest.fixture
def dimers():
    """Four replicas of a stretched, bonded C-H pair, moving."""
    generator = torch.Generator().manual_seed(3)
    x = torch.zeros((4, 2, 3), dtype=torch.float64)
    x[:, 1, 0] = torch.tensor([1.05, 0.95, 1.1, 1.0])
    v = 0.005 * torch.randn((4, 2, 3), generator=generator, dtype=torch.float64)
    return State(Molecule.from_numbers([6, 1], bonds=[(0, 1)]), x, v)


@pytest.fixture
def assert_same():
    """Check that two segments are the same bit for bit."""

    def check(a: Segment, b: Segment) -> None:
        for name in ("times_fs", "positions", "velocities", "made_by"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert torch.equal(a.potential_energies.isnan(), b.potential_energies.isnan())
        assert torch.equal(a.potential_energies.nan_to_num(), b.potential_energies.nan_to_num())
        assert a.events == b.events

    return check
