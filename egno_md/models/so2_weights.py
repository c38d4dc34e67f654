"""The exact map between weights of an SO(2) convolution and of an SO(3) tensor product.

The tensor product of features with the spherical harmonics Y of an edge has one weight matrix
h over channels for every path (l_i, l_f, l_o): degree in, of the filter, out,

    y^(l_o)_n = sum over l_i, l_f, m, k of  C(l_i, l_f, l_o)_mkn  Y^(l_f)_k  x^(l_i)_m  h

with Wigner 3j symbols C in e3nn's real basis and l_f = |l_i - l_o|..l_i + l_o, so at most 2 L.
In a frame with the edge on the y axis Y^(l_f)_k = sqrt(2 l_f + 1) for k = 0, else 0, and of C
only n = m (l_i + l_f + l_o even) and n = -m (odd) are left (eSCN, arXiv 2302.03655, section 3):

    Wr_m[l_i, l_o] = sum over l_f of  sqrt(2 l_f + 1) C(l_i, l_f, l_o)_(m, 0,  m) h     m >= 0
    Wi_m[l_i, l_o] = sum over l_f of  sqrt(2 l_f + 1) C(l_i, l_f, l_o)_(m, 0, -m) h     m >= 1

For a pair (l_i, l_o) these are 2 min(l_i, l_o) + 1 equations for as many paths. Since the 3j
symbols are orthogonal, the transpose undoes them, orders +-m counted once:

    h = sqrt(2 l_f + 1) sum over m of  e_m C(l_i, l_f, l_o)_(m, 0, +-m) W_m,   e_0 = 1, else 2

| symbol | here |
|---|---|
| h | `weights[path]`, paths in the order of `tensor_product_paths` |
| Wr, Wi | `real[m]`, `imaginary[m - 1]`, as in `SO2Convolution` |

Weights that depend on the distance, or on anything else that does not turn, are mapped alike.
Imaginary weights are the paths with l_i + l_f + l_o odd, which a mirror image changes. The bias
is no part of the map: it stands for an input of degree 0 that is 1, by the paths (0, l, l).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from egno_md.models.so2_convolution import SO2Convolution


def tensor_product_paths(max_degree: int) -> list[tuple[int, int, int]]:
    """List the paths (l_i, l_f, l_o) of the full tensor product.

    Args:
        max_degree: highest degree L of the features; the filter's goes to 2 L.

    Returns:
        The paths, those of one (l_i, l_o) side by side.

    Raises:
        ValueError: if the degree is negative.
    """
    if max_degree < 0:
        raise ValueError(f"max_degree must be 0 or more, got {max_degree}")
    degrees = range(max_degree + 1)
    return [(i, f, o) for i in degrees for o in degrees for f in range(abs(i - o), i + o + 1)]


@lru_cache(maxsize=128)
def _orders_of_paths(degree_in: int, degree_out: int) -> Tensor:
    """Matrix of the equations of one pair of degrees.

    Returns:
        `(n, n)` float64, n = 2 min(l_i, l_o) + 1. Rows: real m = 0.., imaginary m = 1..;
        columns: l_f ascending.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from e3nn.o3 import wigner_3j

    m = torch.arange(min(degree_in, degree_out) + 1)
    columns = []
    for degree in range(abs(degree_in - degree_out), degree_in + degree_out + 1):
        c = wigner_3j(degree_in, degree, degree_out, dtype=torch.float64)[:, degree]
        real = c[degree_in + m, degree_out + m]
        imaginary = c[degree_in + m[1:], degree_out - m[1:]]
        columns.append((2 * degree + 1) ** 0.5 * torch.cat((real, imaginary)))
    return torch.stack(columns, 1)


def _paths_of_orders(degree_in: int, degree_out: int) -> Tensor:
    """Inverse of `_orders_of_paths`: the transpose, with m > 0 counted twice."""
    twice = torch.full((2 * min(degree_in, degree_out) + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1.0
    return _orders_of_paths(degree_in, degree_out).T * twice


def order_weights(weights: Tensor, max_degree: int) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of the SO(2) convolution that equals a tensor product.

    Args:
        weights: `(n_paths, in_channels, out_channels)`, in the order of
            `tensor_product_paths`; flattened, they are what e3nn's `TensorProduct` takes.
        max_degree: highest degree L.

    Returns:
        `real`, for m = 0..L, and `imaginary`, for m = 1..L: matrices
        `((L + 1 - m) * in_channels, (L + 1 - m) * out_channels)`.

    Raises:
        ValueError: if the number of paths does not fit the degree.
    """
    paths = tensor_product_paths(max_degree)
    if weights.ndim != 3 or len(weights) != len(paths):
        raise ValueError(
            f"weights must be (paths, in_channels, out_channels) with {len(paths)} paths for "
            f"max_degree {max_degree}, got {tuple(weights.shape)}"
        )
    _, rows, columns = weights.shape
    sizes = [max_degree + 1 - m for m in range(max_degree + 1)]
    real = [weights.new_zeros((n, rows, n, columns)) for n in sizes]
    imaginary = [weights.new_zeros((n, rows, n, columns)) for n in sizes[1:]]
    first = 0
    for i in range(max_degree + 1):
        for o in range(max_degree + 1):
            table = _orders_of_paths(i, o).to(weights)
            mixed = torch.tensordot(table, weights[first : first + len(table)], 1)
            first += len(table)
            low = min(i, o)
            for m in range(low + 1):
                real[m][i - m, :, o - m] = mixed[m]
            for m in range(1, low + 1):
                imaginary[m - 1][i - m, :, o - m] = mixed[low + m]
    return [_flat(part) for part in real], [_flat(part) for part in imaginary]


def path_weights(real: Sequence[Tensor], imaginary: Sequence[Tensor], max_degree: int) -> Tensor:
    """Weights of the tensor product that equals an SO(2) convolution.

    Args:
        real: for m = 0..M matrices `((L + 1 - m) * in_channels, (L + 1 - m) * out_channels)`;
            orders above M count as zero.
        imaginary: the same for m = 1..M, or nothing, for a convolution that respects mirrors.
        max_degree: highest degree L.

    Returns:
        `(n_paths, in_channels, out_channels)`, in the order of `tensor_product_paths`.

    Raises:
        ValueError: if numbers or shapes of the matrices do not fit the degree.
    """
    real_blocks, imaginary_blocks = _blocks(real, imaginary, max_degree)
    _, rows, _, columns = real_blocks[0].shape
    nothing = real_blocks[0].new_zeros((rows, columns))
    found = []
    for i in range(max_degree + 1):
        for o in range(max_degree + 1):
            orders = [
                blocks[m - start][i - m, :, o - m] if m - start < len(blocks) else nothing
                for start, blocks in ((0, real_blocks), (1, imaginary_blocks))
                for m in range(start, min(i, o) + 1)
            ]
            table = _paths_of_orders(i, o).to(nothing)
            found.append(torch.tensordot(table, torch.stack(orders), 1))
    return torch.cat(found)


def equal_convolution(weights: Tensor, max_degree: int) -> SO2Convolution:
    """Build the SO(2) convolution that equals a tensor product.

    Args:
        weights: `(n_paths, in_channels, out_channels)`, as for `order_weights`.
        max_degree: highest degree L.

    Returns:
        A convolution with all orders, M = L, and a bias of zero.

    Raises:
        ValueError: if the number of paths does not fit the degree.
    """
    real, imaginary = order_weights(weights.detach(), max_degree)
    # Built without values: its own would be drawn from the global generator in vain.
    with torch.device("meta"):
        convolution = SO2Convolution(max_degree, max_degree, *weights.shape[1:])
    convolution.bias = nn.Parameter(weights.new_zeros((max_degree + 1) * weights.shape[2]))
    convolution.real = nn.ParameterList(real)
    convolution.imaginary = nn.ParameterList(imaginary)
    return convolution


def _flat(blocks: Tensor) -> Tensor:
    """`(n, in, n, out)` as the matrix `(n * in, n * out)`."""
    n, rows, _, columns = blocks.shape
    return blocks.reshape(n * rows, n * columns)


def _blocks(
    real: Sequence[Tensor], imaginary: Sequence[Tensor], max_degree: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Cut matrices into `(n, in, n, out)`, or say what does not fit."""
    if not 1 <= len(real) <= max_degree + 1 or len(imaginary) not in (0, len(real) - 1):
        raise ValueError(
            f"max_degree {max_degree} takes 1 to {max_degree + 1} real matrices and one "
            f"imaginary less, or none; got {len(real)} and {len(imaginary)}"
        )
    rows, columns = (size // (max_degree + 1) for size in real[0].shape)
    for name, start, matrices in (("real", 0, real), ("imaginary", 1, imaginary)):
        for m, matrix in enumerate(matrices, start):
            n = max_degree + 1 - m
            if tuple(matrix.shape) != (n * rows, n * columns):
                raise ValueError(
                    f"{name} matrix of order {m} must be {(n * rows, n * columns)} for "
                    f"max_degree {max_degree}, got {tuple(matrix.shape)}"
                )
    cut = [
        [matrix.reshape(len(matrix) // rows, rows, -1, columns) for matrix in matrices]
        for matrices in (real, imaginary)
    ]
    return cut[0], cut[1]
