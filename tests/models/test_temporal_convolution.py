"""The small real matrices are the truncated Fourier convolution, exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from egno_md.models.temporal_convolution import (
    FeatureConvolution,
    SpectralConvolution,
    VectorConvolution,
    fourier_matrices,
)

SHAPES = [(p, m) for p in (1, 2, 3, 4, 5, 8, 9, 16) for m in range(1, p // 2 + 2)]


def by_fft(weight: Tensor, signal: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(signal, dim=0)[: weight.shape[2]]
    mixed = torch.einsum("m...i,iom->m...o", spectrum, torch.view_as_complex(weight))
    return torch.fft.irfft(mixed, n=signal.shape[0], dim=0)


def made(
    n_times: int, n_modes: int, in_channels: int = 3, out_channels: int = 4
) -> SpectralConvolution:
    torch.manual_seed(100 * n_times + n_modes)
    layer = SpectralConvolution(in_channels, out_channels, n_modes, n_times, 1.0).double()
    torch.nn.init.normal_(layer.weights1)
    return layer


@pytest.mark.parametrize(("n_times", "n_modes"), SHAPES)
def test_it_is_the_fourier_convolution_and_so_is_its_gradient(n_times: int, n_modes: int) -> None:
    layer = made(n_times, n_modes)
    signal = torch.randn(n_times, 7, 3, dtype=torch.float64, requires_grad=True)
    goal = torch.randn(n_times, 7, 4, dtype=torch.float64)
    ours, theirs = layer(signal), by_fft(layer.weights1, signal)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad((theirs * goal).sum(), (signal, layer.weights1))
    got = torch.autograd.grad((ours * goal).sum(), (signal, layer.weights1))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n_times", "n_modes"), SHAPES)
def test_the_matrices_project_on_the_kept_modes(n_times: int, n_modes: int) -> None:
    analysis, synthesis = fourier_matrices(n_times, n_modes)
    eye = torch.eye(len(analysis), dtype=torch.float64)
    torch.testing.assert_close(analysis @ synthesis, eye, rtol=0, atol=1e-13)
    if n_modes == n_times // 2 + 1:
        whole = torch.eye(n_times, dtype=torch.float64)
        torch.testing.assert_close(synthesis @ analysis, whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n_modes", [0, -1, 4, 100])
def test_impossible_numbers_of_modes_are_refused(n_modes: int) -> None:
    with pytest.raises(ValueError, match=r"num_modes is -?\d+, but 5 time points have only 3"):
        SpectralConvolution(2, 2, n_modes, 5, 1.0)
    with pytest.raises(ValueError, match="num_timesteps"):
        SpectralConvolution(2, 2, 1, 0, 1.0)


def test_a_constant_signal_gives_a_constant_that_does_not_depend_on_the_time_points() -> None:
    answers = []
    for n_times in (4, 5, 11):
        layer = made(n_times, 2)
        with torch.no_grad():
            layer.weights1.copy_(torch.linspace(-1, 1, layer.weights1.numel()).view(3, 4, 2, 2))
        out = layer(torch.ones(n_times, 2, 3, dtype=torch.float64) * torch.arange(1.0, 4.0))
        torch.testing.assert_close(out, out[:1].expand_as(out), rtol=0, atol=1e-14)
        answers.append(out[0])
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(answers[0], answers[2], rtol=1e-13, atol=1e-13)


def test_nodes_do_not_see_each_other() -> None:
    layer = made(5, 3)
    signal = torch.randn(5, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(signal)[:, 2:4], layer(signal[:, 2:4]), rtol=1e-13, atol=1e-13)


def test_vectors_turn_with_the_input_also_under_reflection() -> None:
    torch.manual_seed(2)
    layer = VectorConvolution(2, 3, 8).double()
    vectors = torch.randn(8, 5, 3, 2, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    for matrix in (turn, -turn):
        turned = torch.einsum("ab,pnbc->pnac", matrix, vectors)
        expected = torch.einsum("ab,pnbc->pnac", matrix, layer(vectors))
        torch.testing.assert_close(layer(turned), expected, rtol=1e-12, atol=1e-12)


def test_features_pass_through_a_leaky_relu_and_a_residual() -> None:
    torch.manual_seed(3)
    layer = FeatureConvolution(4, 2, 5).double()
    torch.nn.init.normal_(layer.t_conv.weights1)
    h = torch.randn(5, 6, 4, dtype=torch.float64)
    k = by_fft(layer.t_conv.weights1, h)
    torch.testing.assert_close(
        layer(h), h + torch.where(k > 0, k, 0.01 * k), rtol=1e-12, atol=1e-12
    )


def test_initial_weights_have_the_published_range() -> None:
    torch.manual_seed(4)
    features = FeatureConvolution(32, 2, 5).t_conv.weights1
    vectors = torch.stack([VectorConvolution(2, 2, 5).t_conv.weights1 for _ in range(50)])
    for weights, top in ((features.detach(), 1 / 32**2), (vectors.detach(), 0.1)):
        assert 0.0 <= float(weights.min()) < 0.02 * top
        assert 0.98 * top < float(weights.max()) <= top


def test_half_precision_autocast_leaves_it_exact() -> None:
    layer = made(5, 2).float()
    signal = torch.randn(5, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(signal)
    assert out.dtype == torch.float32
    assert torch.equal(out, layer(signal))


def test_a_signal_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="6 time points, the convolution was made for 5"):
        made(5, 2)(torch.zeros(6, 2, 3, dtype=torch.float64))
