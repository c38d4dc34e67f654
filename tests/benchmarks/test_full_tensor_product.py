"""Spherical harmonics of any degree, and e3nn's order of the features."""

import warnings

import pytest
import torch

from egno_md.benchmarks.full_tensor_product import (
    edge_harmonics,
    from_e3nn,
    full_tensor_product,
    to_e3nn,
)
from egno_md.models.edge_frame import edge_frames
from egno_md.models.wigner import WignerMatrices


def arrows():
    draw = torch.Generator().manual_seed(0)
    poles = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [1e-9, -1.0, 0.0]]).double()
    found = torch.cat((poles, torch.randn((6, 3), generator=draw, dtype=torch.float64)))
    return found / found.norm(dim=-1, keepdim=True)


def test_harmonics_are_those_of_e3nn():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from e3nn.o3 import spherical_harmonics
    theirs = spherical_harmonics(list(range(12)), arrows(), False, normalization="component")
    assert torch.allclose(edge_harmonics(arrows(), 11), theirs, rtol=0, atol=1e-12)


def test_harmonics_are_rows_of_wigner_matrices():
    """Y(r) = D(R)^T Y(0, 1, 0), of which only m = 0 is not zero."""
    blocks = WignerMatrices(6).double()(edge_frames(arrows()))
    rows = [(2 * k + 1) ** 0.5 * block[:, k] for k, block in enumerate(blocks)]
    assert torch.allclose(edge_harmonics(arrows(), 6), torch.cat(rows, 1), rtol=0, atol=1e-13)


def test_harmonics_of_high_degree_have_their_length():
    squares = edge_harmonics(arrows(), 14)[:, 14 * 14 :].square().sum(1)
    assert torch.allclose(squares, torch.full_like(squares, 29.0), rtol=1e-12)
    assert edge_harmonics(arrows(), 0).shape == (9, 1)
    with pytest.raises(ValueError, match="max_degree"):
        edge_harmonics(arrows(), -1)


def test_order_of_e3nn_and_back():
    features = torch.arange(2 * 9 * 3).view(2, 9, 3).double()
    flat = to_e3nn(features)
    assert torch.equal(from_e3nn(flat, 2), features)
    assert flat[0, 3:12].tolist() == features[0, 1:4].T.flatten().tolist()


def test_building_leaves_the_default_precision_alone():
    product = full_tensor_product(1, 1, 1, torch.float64)
    assert torch.get_default_dtype() is torch.float32
    x, y = torch.ones(1, 4).double(), edge_harmonics(arrows()[:1], 2)
    assert product(x, y, torch.ones(6).double()).dtype is torch.float64
