import pytest
import torch

from egno_md.models.edge_frame import edge_frames

AXES = torch.cat((torch.eye(3), -torch.eye(3))).double()
NEAR_POLES = torch.tensor(
    [[1e-9, 1.0, 0.0], [0.0, -1.0, 1e-9], [1e-4, -1.0, -1e-4], [1.0, 1e-12, 0.0], [1.0, -1e-12, 0]],
    dtype=torch.float64,
)


@pytest.fixture
def directions():
    draw = torch.Generator().manual_seed(1)
    some = torch.randn((50, 3), generator=draw, dtype=torch.float64)
    every = torch.cat((some, AXES, NEAR_POLES))
    return every / every.norm(dim=-1, keepdim=True)


def test_edges_land_on_the_y_axis(directions):
    turned = torch.einsum("eij,ej->ei", edge_frames(directions), directions)
    assert torch.allclose(turned, AXES[1].expand_as(turned), rtol=0, atol=1e-15)


def test_frames_are_proper_rotations(directions):
    frames = edge_frames(directions)
    eye = torch.eye(3).double().expand_as(frames)
    assert torch.allclose(frames @ frames.transpose(1, 2), eye, rtol=0, atol=1e-14)
    assert torch.allclose(torch.linalg.det(frames), torch.ones(len(frames)).double())


def test_the_same_edge_gets_the_same_frame(directions):
    assert torch.equal(edge_frames(directions), edge_frames(directions))


@pytest.mark.parametrize("axis", [*AXES, *NEAR_POLES])
def test_differentiable_twice_everywhere(axis):
    def frame_of(arrow):
        return edge_frames(arrow / arrow.norm(dim=-1, keepdim=True))

    # Off the seam y = 0, where a step of the difference quotient would change the chart.
    arrow = axis.clone()[None] * 1.3 + torch.tensor([[0.0, 0.01, 0.0]])
    arrow = arrow.double().requires_grad_()
    assert torch.autograd.gradcheck(frame_of, (arrow,))
    assert torch.autograd.gradgradcheck(frame_of, (arrow,))
