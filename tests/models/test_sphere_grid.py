"""Grids lose nothing, weights integrate exactly, points are spread evenly."""

from __future__ import annotations

import math

import pytest
import torch

from egno_md.models.sphere_grid import (
    grid_matrices,
    harmonics,
    kept_rows,
    latitude_weights,
    published_longitudes,
    weighted_points,
)

SIZES = [(1, 0), (1, 1), (2, 2), (4, 2), (6, 2), (6, 3), (5, 5), (11, 2)]


@pytest.mark.parametrize(("degree", "order"), SIZES)
def test_to_the_grid_and_back_is_the_identity(degree, order):
    to, back = grid_matrices(degree, order, published_longitudes(degree, order))
    assert torch.allclose(back @ to, torch.eye(to.shape[1]).double(), rtol=0, atol=1e-13)


def test_one_longitude_less_loses_something():
    with pytest.raises(ValueError, match="at least 5 longitudes, got 4"):
        grid_matrices(4, 2, 4)


@pytest.mark.parametrize(("degree", "order", "shape"), [(4, 2, (50, 19)), (6, 2, (70, 29))])
def test_sizes_are_the_published_ones(degree, order, shape):
    to, back = grid_matrices(degree, order, published_longitudes(degree, order))
    assert (to.shape, back.shape) == (shape, shape[::-1])
    assert published_longitudes(4, 4) == 11


def test_values_are_those_of_the_harmonics():
    to, _ = grid_matrices(1, 1, 5)
    assert float(to[0, 0]) == pytest.approx(1 / math.sqrt(4 * math.pi), abs=1e-15)
    # Degree 1 is sqrt(3 / 4 pi) (x, y, z), and y is highest in the first latitude.
    assert float(to[0, 2]) == pytest.approx(math.sqrt(0.75 / math.pi) * math.cos(math.pi / 8))


@pytest.mark.parametrize("n", [2, 4, 10, 24])
def test_latitudes_integrate_polynomials(n):
    y = torch.cos((torch.arange(n).double() + 0.5) * math.pi / n)
    for power in range(n):
        exact = 2 / (power + 1) if power % 2 == 0 else 0.0
        assert float((latitude_weights(n) * y**power).sum()) == pytest.approx(exact, abs=1e-14)


def test_kept_rows_go_degree_by_degree():
    assert kept_rows(2, 1) == [0, 1, 2, 3, 5, 6, 7]
    assert kept_rows(2, 2) == list(range(9))


def test_harmonics_of_long_points_scale_with_the_degree():
    point = torch.tensor([[0.3, -0.5, 0.2]], dtype=torch.float64)
    ratio = harmonics(3, 2 * point) / harmonics(3, point)
    degrees = torch.arange(4).repeat_interleave(2 * torch.arange(4) + 1)
    assert torch.allclose(ratio[0], 2.0 ** degrees.double(), rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match="between 0 and 11, got 12"):
        harmonics(12, point)


def test_points_are_even_and_of_mean_length_one():
    points = weighted_points(128)
    lengths = points.norm(dim=1)
    assert float(lengths.mean()) == pytest.approx(1.0, abs=1e-14)
    assert 0.97 < float(lengths.min()) < 1.0 < float(lengths.max()) < 1.03
    assert float(points.mean(0).norm()) < 1e-4
    second = points.T @ points / len(points)
    assert torch.allclose(second, torch.eye(3).double() / 3, rtol=0, atol=3e-3)
    with pytest.raises(ValueError, match="at least 1"):
        weighted_points(0)
