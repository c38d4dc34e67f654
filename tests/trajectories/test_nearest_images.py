import itertools

import pytest
import torch

from egno_md.trajectories.nearest_images import half_thickness_A, nearest_images

PERIODIC = (True, True, True)
SKEWED = torch.tensor([[[6.0, 0, 0], [2.5, 5.0, 0], [-2.0, 2.4, 4.5]]], dtype=torch.float64)


def test_nearest_images_are_those_of_a_search_within_half_the_thickness():
    generator = torch.Generator().manual_seed(1)
    fractions = 6.0 * torch.rand(1, 400, 3, generator=generator, dtype=torch.float64) - 3.0
    arrows = fractions @ SKEWED
    found = nearest_images(arrows, SKEWED, PERIODIC)
    steps = torch.tensor(list(itertools.product(range(-5, 6), repeat=3)), dtype=torch.float64)
    shortest = (arrows[0, :, None] + steps @ SKEWED[0]).norm(dim=-1).amin(1)
    near = shortest < half_thickness_A(SKEWED, PERIODIC)
    assert 50 < int(near.sum()) < 400
    torch.testing.assert_close(found[0].norm(dim=-1)[near], shortest[near])
    # They differ from what was given by whole cell vectors.
    moved = (found - arrows) @ torch.linalg.inv(SKEWED)
    torch.testing.assert_close(moved, moved.round(), atol=1e-9, rtol=0)


def test_directions_that_are_not_periodic_stay_as_they_are():
    cell = 4.0 * torch.eye(3, dtype=torch.float64)[None]
    arrows = torch.tensor([[[3.0, 3.0, 3.0]]], dtype=torch.float64)
    found = nearest_images(arrows, cell, (True, False, True))
    assert found.tolist() == [[[-1.0, 3.0, -1.0]]]


def test_half_the_thickness_is_that_of_the_thinnest_periodic_direction():
    cell = torch.diag(torch.tensor([3.0, 8.0, 5.0], dtype=torch.float64))[None]
    assert half_thickness_A(cell, PERIODIC) == pytest.approx(1.5)
    assert half_thickness_A(cell, (False, True, True)) == pytest.approx(2.5)
    assert half_thickness_A(cell, (False, False, False)) == float("inf")
    # A skewed cell is thinner than its vectors are long: 2 sqrt(3) / 2 for a rhombus of 60 degrees.
    rhombus = torch.tensor([[[2.0, 0, 0], [1.0, 3.0**0.5, 0], [0, 0, 9.0]]], dtype=torch.float64)
    assert half_thickness_A(rhombus, PERIODIC) == pytest.approx(3.0**0.5 / 2)
