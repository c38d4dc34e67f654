import torch
from torch import nn

from egno_md.models.bfloat16_products import Bfloat16Products
from egno_md.models.egno import EGNO, graph_centres


def test_a_product_is_rounded_and_its_gradient_is_that_of_the_weights():
    torch.manual_seed(0)
    linear = nn.Linear(8, 4)
    x = torch.randn(3, 8)
    out = Bfloat16Products(linear)(x)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), linear(x), atol=0.02)
    assert not torch.equal(out.float(), linear(x))
    out.sum().backward()
    assert linear.weight.grad.dtype == torch.float32
    assert torch.allclose(linear.weight.grad, x.sum(0).expand(4, -1), rtol=0.02, atol=0.02)


def test_positions_of_egno_stay_in_float32():
    torch.manual_seed(0)
    egno = EGNO(2, 1, 2, 16, num_timesteps=5)
    x, v, h = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 1)
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    inputs = (x, v, h, edges, torch.randn(4, 2), graph_centres(x, torch.zeros(4).long(), 1))
    exact, rounded = egno(*inputs)[0], Bfloat16Products(egno)(*inputs)[0]
    assert rounded.dtype == torch.float32
    change = (exact - x).norm()
    assert 0 < (rounded - exact).norm() < 0.02 * change
