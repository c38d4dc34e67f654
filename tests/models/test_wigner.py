import warnings

import pytest
import torch

from egno_md.models.edge_frame import edge_frames
from egno_md.models.wigner import WignerMatrices, stack_blocks

POLES = torch.tensor(
    [[0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [1e-9, 1.0, 0], [1e-6, -1.0, 1e-6], [1.0, 0, 0], [0, 0, 1]],
    dtype=torch.float64,
)


@pytest.fixture(scope="module")
def o3():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from e3nn import o3
    return o3


def random_rotations(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn((n, 3, 3), generator=draw, dtype=torch.float64))
    q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
    return q * torch.linalg.det(q).sign()[:, None, None]


@pytest.mark.parametrize("degree", range(5))
def test_agrees_with_e3nn(o3, degree):
    rotations = random_rotations(40)
    ours = WignerMatrices(4).double()(rotations)[degree]
    # Their tables take the default dtype.
    torch.set_default_dtype(torch.float64)
    try:
        theirs = torch.stack([o3.Irrep(degree, 1).D_from_matrix(r) for r in rotations])
    finally:
        torch.set_default_dtype(torch.float32)
    # Their table of degree 1 is good to 6e-11 only; ours is the rotation itself.
    limit = 1e-10 if degree == 1 else 1e-12
    assert torch.allclose(ours, theirs, rtol=0, atol=limit)


@pytest.mark.parametrize("degree", range(1, 5))
def test_turns_spherical_harmonics_poles_included(o3, degree):
    """D^l(R) Y_l(v) = Y_l(R v), without any angle."""
    poles = POLES / POLES.norm(dim=-1, keepdim=True)
    rotations = torch.cat((edge_frames(poles), random_rotations(20, 1)))
    vectors = torch.cat((poles, random_rotations(20, 2)[:, 0]))
    turned = torch.einsum("nij,nj->ni", rotations, vectors)
    matrices = WignerMatrices(4).double()(rotations)[degree]
    before = o3.spherical_harmonics(degree, vectors, normalize=True)
    after = o3.spherical_harmonics(degree, turned, normalize=True)
    found = torch.einsum("nij,nj->ni", matrices, before)
    assert torch.allclose(found, after, rtol=0, atol=1e-12)


def test_products_and_inverses():
    a, b = random_rotations(5, 1), random_rotations(5, 2)
    wigner = WignerMatrices(5).double()
    for da, db, dab in zip(wigner(a), wigner(b), wigner(a @ b), strict=True):
        assert torch.allclose(da @ db, dab, rtol=0, atol=1e-13)
        eye = torch.eye(da.shape[1]).double().expand_as(da)
        assert torch.allclose(da @ da.transpose(1, 2), eye, rtol=0, atol=1e-13)


@pytest.mark.parametrize("pole", POLES[:4])
def test_differentiable_twice_through_the_frame(pole):
    wigner = WignerMatrices(2).double()

    def matrices_of(arrow):
        return torch.cat(
            [b.flatten() for b in wigner(edge_frames(arrow / arrow.norm(dim=-1, keepdim=True)))]
        )

    arrow = (1.2 * pole)[None].requires_grad_()
    assert torch.autograd.gradcheck(matrices_of, (arrow,))
    assert torch.autograd.gradgradcheck(matrices_of, (arrow,))


def test_a_change_of_dtype_loses_no_digit():
    there_and_back = WignerMatrices(3).double().float().double()
    rotations = random_rotations(3)
    torch.set_default_dtype(torch.float64)
    try:
        straight = WignerMatrices(3)
    finally:
        torch.set_default_dtype(torch.float32)
    for ours, theirs in zip(there_and_back(rotations), straight(rotations), strict=True):
        assert torch.equal(ours, theirs)
    assert not WignerMatrices(3).state_dict()


def test_stacks_blocks_in_the_order_asked_for():
    blocks = WignerMatrices(2).double()(random_rotations(4))
    whole = stack_blocks(blocks, torch.arange(9))
    assert torch.equal(whole[:, 4:, 4:], blocks[2])
    assert torch.equal(whole[:, 1:4, 1:4], blocks[1])
    assert float(whole[:, :1, 1:].abs().max()) == 0.0
    order = torch.tensor([7, 0, 2])
    assert torch.equal(stack_blocks(blocks, order), whole[:, order])


@pytest.mark.parametrize("degree", [-1, 12])
def test_refuses_degrees_out_of_range(degree):
    with pytest.raises(ValueError, match="max_degree"):
        WignerMatrices(degree)
