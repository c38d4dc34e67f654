import pytest
import torch

from egno_md.models.radial_basis import RadialBasis, envelope


def derivatives(distance, order):
    d = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
    value = envelope(d, 5.0)
    values = [float(value.detach())]
    for _ in range(order):
        (value,) = torch.autograd.grad(value, d, create_graph=True)
        values.append(float(value.detach()))
    return values


def test_envelope_ends_twice_continuously():
    value, slope, curvature = derivatives(5.0 - 1e-6, 2)
    assert 0.0 < value < 1e-16
    assert abs(slope) < 1e-10
    assert abs(curvature) < 1e-4
    assert derivatives(5.0, 2) == [0.0, 0.0, 0.0]
    assert derivatives(7.0, 2) == [0.0, 0.0, 0.0]


def test_envelope_follows_its_formula():
    u = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    p = 6
    plain = 1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1)
    plain = plain - p * (p + 1) / 2 * u ** (p + 2)
    assert torch.allclose(envelope(4.0 * u, 4.0), plain, rtol=0, atol=1e-13)


def test_envelope_starts_at_one_and_falls():
    d = torch.linspace(0.0, 5.0, 501, dtype=torch.float64)
    values = envelope(d, 5.0)
    assert float(values[0]) == 1.0
    assert bool((values.diff() <= 0).all())


def test_bessel_functions_follow_their_formula():
    d = torch.tensor([0.7, 2.0, 4.9], dtype=torch.float64)
    basis = RadialBasis(5.0, 6).double()
    n = torch.arange(1, 7, dtype=torch.float64)
    plain = (2.0 / 5.0) ** 0.5 * torch.sin(n * torch.pi * d[:, None] / 5.0) / d[:, None]
    assert torch.allclose(basis(d), plain * 2.5, rtol=1e-13, atol=1e-14)


def test_gaussians_peak_at_their_centres():
    basis = RadialBasis(4.0, 5, "gaussian").double()
    assert torch.allclose(basis(torch.arange(5.0).double()).diagonal(), torch.ones(5).double())


@pytest.mark.parametrize(("kind", "n"), [("fourier", 8), ("bessel", 1)])
def test_refuses_what_it_does_not_know(kind, n):
    with pytest.raises(ValueError, match="radial basis"):
        RadialBasis(5.0, n, kind)
