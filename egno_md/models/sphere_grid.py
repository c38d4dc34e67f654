"""Functions on the sphere: grids for non-linear steps, points for averages.

A function with coefficients x_lm has the value sum_lm Y_lm(p) x_lm at a point p, with the real
harmonics of e3nn ("integral" normalisation, Y_00 = 1 / sqrt(4 pi), polar axis y). A grid has
2 (L + 1) latitudes at the middles of equal steps of the polar angle, where Fejér's first rule
integrates the polynomials that occur exactly, and equally spaced longitudes. So going to a grid
and back loses nothing; only a non-linear step between the two does, and more so the fewer the
longitudes.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

#: Widths of the kernel that measures how dense points lie, a squared chord on the unit sphere.
_DENSITY_WIDTH = 0.15


def harmonics(max_degree: int, points: Tensor) -> Tensor:
    """Values of the real spherical harmonics, as homogeneous polynomials of degree l.

    Args:
        max_degree: highest degree L, 0 to 11.
        points: `(..., 3)`; where a point is not on the unit sphere, degree l scales with |p|^l.

    Returns:
        `(..., (L+1)^2)`, degree by degree, m = -l..l, in the dtype of the points.

    Raises:
        ValueError: if the degree is out of range.
    """
    if not 0 <= max_degree <= 11:
        raise ValueError(f"max_degree must be between 0 and 11, got {max_degree}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from e3nn.o3 import spherical_harmonics

        values: Tensor = spherical_harmonics(
            list(range(max_degree + 1)), points, normalize=False, normalization="integral"
        )
    return values


def kept_rows(max_degree: int, max_order: int) -> list[int]:
    """Indices l^2 + l + m of the coefficients with |m| <= M, degree by degree."""
    return [
        degree * degree + degree + order
        for degree in range(max_degree + 1)
        for order in range(-min(degree, max_order), min(degree, max_order) + 1)
    ]


def published_longitudes(max_degree: int, max_order: int) -> int:
    """Longitudes of the published grids: the fewest that lose nothing, or two more if M = L."""
    return 2 * max_degree + 3 if max_order == max_degree else 2 * max_order + 1


def latitude_weights(n_latitudes: int) -> Tensor:
    """Fejér's first rule: weights of a sum over latitudes that stands for an integral over y.

    Args:
        n_latitudes: number of latitudes, even; polynomials in y of a lower degree are exact.

    Returns:
        `(n_latitudes,)` float64, summing to 2.
    """
    angles = _latitudes(n_latitudes)
    j = torch.arange(1, n_latitudes // 2 + 1, dtype=torch.float64)
    waves = torch.cos(2.0 * j * angles[:, None]) / (4.0 * j * j - 1.0)
    return (2.0 / n_latitudes) * (1.0 - 2.0 * waves.sum(1))


def _latitudes(n_latitudes: int) -> Tensor:
    return (torch.arange(n_latitudes, dtype=torch.float64) + 0.5) * (math.pi / n_latitudes)


def grid_matrices(max_degree: int, max_order: int, n_longitudes: int) -> tuple[Tensor, Tensor]:
    """Matrices from coefficients with |m| <= M to values on a grid, and back.

    Args:
        max_degree: highest degree L.
        max_order: highest order M kept.
        n_longitudes: at least 2 M + 1.

    Returns:
        `(n_points, n_coefficients)` and `(n_coefficients, n_points)`, float64; the second times
        the first is the identity. Points run over longitudes first, coefficients are in the
        order of `kept_rows`.

    Raises:
        ValueError: for too few longitudes, or a degree out of range.
    """
    if n_longitudes < 2 * max_order + 1:
        raise ValueError(
            f"order {max_order} needs at least {2 * max_order + 1} longitudes, got {n_longitudes}"
        )
    n_latitudes = 2 * (max_degree + 1)
    polar = _latitudes(n_latitudes)[:, None]
    turn = torch.arange(n_longitudes, dtype=torch.float64) * (2.0 * math.pi / n_longitudes)
    y = polar.cos().expand(-1, n_longitudes)
    points = torch.stack((polar.sin() * turn.sin(), y, polar.sin() * turn.cos()), -1)
    values = harmonics(max_degree, points.reshape(-1, 3))[:, kept_rows(max_degree, max_order)]
    weights = latitude_weights(n_latitudes).repeat_interleave(n_longitudes)
    back = values * (weights * (2.0 * math.pi / n_longitudes))[:, None]
    return values, back.T.contiguous()


def weighted_points(n_points: int) -> Tensor:
    """Points of a golden spiral on the sphere, each scaled by how alone it is.

    The published network averages over these: the average of the lengths is 1, those of points
    in thinner parts are longer. So a point is up to a few per cent off the unit sphere.

    Args:
        n_points: how many, at least 1.

    Returns:
        `(n_points, 3)` float64.

    Raises:
        ValueError: if there are none.
    """
    if n_points < 1:
        raise ValueError(f"at least 1 point is needed, got {n_points}")
    i = torch.arange(n_points, dtype=torch.float64)
    turn = i * (4.0 * math.pi / (1.0 + math.sqrt(5.0)))
    z = 1.0 - (2.0 * i + 1.0) / n_points
    radius = (1.0 - z * z).sqrt()
    points = torch.stack((radius * turn.cos(), radius * turn.sin(), z), 1)
    chords = (points[:, None] - points).square().sum(-1)
    alone = 1.0 / torch.exp(-chords / _DENSITY_WIDTH).sum(1)
    return points * (alone / alone.mean())[:, None]
