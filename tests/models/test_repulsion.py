"""Repulsion against hand-worked numbers, and its smooth end."""

import math

import pytest
import torch
from ase.data import covalent_radii

from egno_md.models.repulsion import Repulsion


def energy(d, a, b):
    z = torch.tensor([a]), torch.tensor([b])
    return Repulsion().double()(torch.tensor([d], dtype=torch.float64), *z)


def test_near_the_nucleus_it_is_coulomb():
    # Screening falls by 3.2 * 0.1818 + ... per screening length.
    slope = 0.1818 * 3.2 + 0.5099 * 0.9423 + 0.2802 * 0.4029 + 0.02817 * 0.2016
    length = 0.8854 * 0.529177210903 / (6**0.23 + 8**0.23)
    d = 1e-4
    bare = 14.3996454784 * 48 / d
    assert float(energy(d, 6, 8)) == pytest.approx(bare * (1.00007 - slope * d / length), rel=1e-5)


def test_it_ends_where_the_covalent_radii_touch():
    reach = covalent_radii[6] + covalent_radii[1]
    assert float(energy(reach + 1e-9, 6, 1)) == 0.0
    assert float(energy(reach - 0.05, 6, 1)) > 0.0
    d = torch.tensor([reach - 1e-4], dtype=torch.float64, requires_grad=True)
    e = Repulsion().double()(d, torch.tensor([6]), torch.tensor([1]))
    (first,) = torch.autograd.grad(e.sum(), d, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), d)
    assert abs(first.item()) < 1e-4
    assert abs(second.item()) < 0.5


def test_order_of_a_pair_does_not_matter_and_it_falls():
    assert torch.equal(energy(0.5, 1, 8), energy(0.5, 8, 1))
    values = [float(energy(d, 8, 8)) for d in (0.05, 0.1, 0.3, 0.6, 1.0, 1.2)]
    assert values == sorted(values, reverse=True)
    assert all(map(math.isfinite, values))
