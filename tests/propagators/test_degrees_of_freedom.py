from __future__ import annotations

import math

import pytest
import torch

from egno_md.propagators.degrees_of_freedom import (
    degrees_of_freedom,
    without_drift,
    without_rotation,
)
from egno_md.state import Molecule, maxwell_boltzmann, temperature_K

WATER = Molecule.from_numbers([8, 1, 1])
BENT = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], dtype=torch.float64)
LINE = torch.tensor([[0.0, 0, 0], [1.0, 1, 1], [-1.0, -1, -1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("numbers", "settings", "expected"),
    [
        ([8, 1, 1], {}, 9),
        ([8, 1, 1], {"zero_momentum": True}, 6),
        ([8, 1, 1], {"zero_momentum": True, "zero_angular_momentum": True}, 3),
        ([6, 8, 8], {"zero_momentum": True, "zero_angular_momentum": True, "linear": True}, 4),
        ([1, 1], {"zero_momentum": True, "zero_angular_momentum": True}, 1),
        ([18], {"zero_momentum": True, "zero_angular_momentum": True}, 0),
    ],
)
def test_counts(numbers, settings, expected) -> None:
    assert degrees_of_freedom(Molecule.from_numbers(numbers), **settings) == expected


def test_a_crystal_does_not_conserve_angular_momentum() -> None:
    crystal = Molecule.from_numbers([14, 14], pbc=(True, True, True))
    with pytest.raises(ValueError, match="not conserved in a periodic cell"):
        degrees_of_freedom(crystal, zero_angular_momentum=True)
    with pytest.raises(ValueError, match="has no angular momentum"):
        without_rotation(crystal, torch.zeros(2, 3), torch.zeros(2, 3))


def momenta(positions, velocities):
    p = WATER.masses[:, None] * velocities
    return p.sum(-2), torch.linalg.cross(positions, p).sum(-2)


@pytest.mark.parametrize("shape", [BENT, LINE])
def test_overall_motion_is_removed_and_nothing_else(shape) -> None:
    v = maxwell_boltzmann(WATER, 6, 300.0, torch.Generator().manual_seed(2))
    x = shape.expand(6, 3, 3) + 5.0
    still = without_drift(WATER, v)
    assert float(momenta(x, still)[0].abs().max()) < 1e-15
    calm = without_rotation(WATER, x, still)
    linear, angular = momenta(x, calm)
    assert float(linear.abs().max()) < 1e-14
    assert float(angular.abs().max()) < 1e-13
    torch.testing.assert_close(without_rotation(WATER, x, calm), calm, rtol=0, atol=1e-15)
    # A rigid rotation leaves every distance alone, so no bond's speed may change.
    for i, j in ((0, 1), (0, 2), (1, 2)):
        arm = x[:, i] - x[:, j]
        before = (arm * (v[:, i] - v[:, j])).sum(-1)
        torch.testing.assert_close((arm * (calm[:, i] - calm[:, j])).sum(-1), before)


@pytest.mark.parametrize(("shape", "linear"), [(BENT, False), (LINE, True)])
def test_the_counted_temperature_is_the_drawn_one(shape, linear) -> None:
    n = 6000
    v = maxwell_boltzmann(WATER, n, 300.0, torch.Generator().manual_seed(4))
    calm = without_rotation(WATER, shape.expand(n, 3, 3), without_drift(WATER, v))
    f = degrees_of_freedom(WATER, zero_momentum=True, zero_angular_momentum=True, linear=linear)
    kelvin = float(temperature_K(WATER, calm, f).mean())
    assert kelvin == pytest.approx(300.0, rel=5 * math.sqrt(2 / (n * f)))
