"""Second-order checks, on springs whose derivatives are known."""

import pytest
import torch

from egno_md.roles import EnergyForces
from egno_md.testing.derivative_checks import (
    force_convergence,
    hessian,
    hessian_asymmetry,
    single_precision_error,
)
from tests.benchmarks.springs import STIFFNESS, Springs, start


class Sideways(Springs):
    """Springs, and a force with a curl on the first atom."""

    def evaluate(self, state):
        found = super().evaluate(state)
        forces = found.forces.clone()
        forces[:, 0, 0] += 1e-3 * state.positions[:, 0, 1]
        return EnergyForces(found.energy, forces)


class Rounded(Springs):
    """Springs in float32."""

    def evaluate(self, state):
        return super().evaluate(state.with_(positions=state.positions.float().double()))


def displaced():
    state = start(2)
    noise = torch.randn(state.positions.shape, generator=torch.Generator().manual_seed(1))
    return state.with_(positions=state.positions + 0.05 * noise.double())


def test_the_hessian_of_a_spring_at_rest():
    found = hessian(Springs(), start(1))
    # Atoms 0 and 1 lie along x, 1 and 2 along y.
    assert float(found[0, 0]) == pytest.approx(STIFFNESS)
    assert float(found[0, 3]) == pytest.approx(-STIFFNESS)
    assert float(found[1, 1]) == pytest.approx(0.0, abs=1e-8)
    assert float(found[4, 4]) == pytest.approx(STIFFNESS)


def test_curl_breaks_the_symmetry():
    assert hessian_asymmetry(Springs(), displaced()) < 1e-8
    assert hessian_asymmetry(Sideways(), displaced()) == pytest.approx(1e-3, rel=1e-4)


def test_quotients_come_nearer_with_the_square_of_the_step():
    assert force_convergence(Springs(), displaced()) == pytest.approx(100, rel=0.05)
    # A wrong force stays wrong.
    assert force_convergence(Sideways(), displaced()) < 60


def test_rounding_is_seen():
    assert single_precision_error(Springs(), Springs(), displaced()) == 0.0
    assert 1e-8 < single_precision_error(Springs(), Rounded(), displaced()) < 1e-4
