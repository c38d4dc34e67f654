"""The SO(3) tensor product with spherical-harmonics filter, as e3nn computes it.

The yardstick of the SO(2) convolution: every path (l_i, l_f, l_o), l_f up to 2 L, with plain
Wigner 3j symbols. Its weights map to those of an SO(2) convolution one to one, see
`egno_md.models.so2_weights`.
"""

from __future__ import annotations

import math
import warnings
from typing import cast

import torch
from torch import Tensor, nn

from egno_md.models.so2_weights import tensor_product_paths


def edge_harmonics(directions: Tensor, max_degree: int) -> Tensor:
    """Spherical harmonics of any degree, normalised so that the squares of one sum to 2 l + 1.

    From degree to degree by coupling with degree 1, Y_l ~ C(l - 1, 1, l) Y_(l-1) Y_1; the
    factor is the one that puts Y_l(0, 1, 0) = sqrt(2 l + 1) at m = 0. e3nn's own formulas, with
    the same basis and signs, stop at degree 11.

    Args:
        directions: `(n, 3)`, unit vectors.
        max_degree: highest degree.

    Returns:
        `(n, (max_degree + 1)^2)`, degree by degree, m = -l..l.

    Raises:
        ValueError: if the degree is negative.
    """
    if max_degree < 0:
        raise ValueError(f"max_degree must be 0 or more, got {max_degree}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from e3nn.o3 import wigner_3j

    degrees = [torch.ones_like(directions[:, :1]), math.sqrt(3.0) * directions]
    for degree in range(2, max_degree + 1):
        c = wigner_3j(degree - 1, 1, degree, dtype=torch.float64)
        at_pole = math.sqrt(3.0 * (2 * degree - 1)) * float(c[degree - 1, 1, degree])
        c = (c * (math.sqrt(2 * degree + 1) / at_pole)).to(directions)
        degrees.append(torch.einsum("ijk,ni,nj->nk", c, degrees[-1], degrees[1]))
    return torch.cat(degrees[: max_degree + 1], 1)


def full_tensor_product(
    max_degree: int, in_channels: int, out_channels: int, dtype: torch.dtype
) -> nn.Module:
    """Build e3nn's tensor product.

    Args:
        max_degree: highest degree L of the features.
        in_channels: channels coming in.
        out_channels: channels going out.
        dtype: precision of its constants.

    Returns:
        A module called with features and filter in e3nn's order, see `to_e3nn` and
        `edge_harmonics`, and the flat weights `(n_paths * in_channels * out_channels,)`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from e3nn.o3 import Irreps, TensorProduct

        degrees = range(max_degree + 1)
        # e3nn's constants take the default precision.
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            product = TensorProduct(
                Irreps([(in_channels, (degree, 1)) for degree in degrees]),
                Irreps([(1, (degree, 1)) for degree in range(2 * max_degree + 1)]),
                Irreps([(out_channels, (degree, 1)) for degree in degrees]),
                [(i, f, o, "uvw", True) for i, f, o in tensor_product_paths(max_degree)],
                irrep_normalization="none",
                path_normalization="none",
                shared_weights=True,
                internal_weights=False,
            )
        finally:
            torch.set_default_dtype(before)
    return cast(nn.Module, product)


def to_e3nn(features: Tensor) -> Tensor:
    """Features `(n, (L+1)^2, channels)` in e3nn's order, `(n, (L+1)^2 * channels)`."""
    max_degree = math.isqrt(features.shape[1]) - 1
    degrees = torch.split(features, [2 * degree + 1 for degree in range(max_degree + 1)], 1)
    return torch.cat([part.transpose(1, 2).flatten(1) for part in degrees], 1)


def from_e3nn(flat: Tensor, max_degree: int) -> Tensor:
    """Features from e3nn's order back to `(n, (L+1)^2, channels)`."""
    channels = flat.shape[1] // (max_degree + 1) ** 2
    sizes = [2 * degree + 1 for degree in range(max_degree + 1)]
    parts = torch.split(flat, [channels * size for size in sizes], 1)
    turned = [
        part.view(len(flat), channels, size).transpose(1, 2)
        for part, size in zip(parts, sizes, strict=True)
    ]
    return torch.cat(turned, 1)
