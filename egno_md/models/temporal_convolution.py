"""Convolution over time in Fourier space: the neural-operator part of EGNO.

A signal on `P` time points goes through a discrete Fourier transform, its lowest `M` bins are
multiplied by one complex matrix each, and the inverse transform brings it back:

| step | equation |
|---|---|
| analysis | `X[m] = sum_p x[p] exp(-2 pi i m p / P)` |
| mixing | `Y[m] = X[m] W[m]` for `m < M`, and 0 above |
| synthesis | `y[p] = 1/P sum_m c_m Re(Y[m] exp(2 pi i m p / P))` |

with `c_m` 1 for bin 0 and for the Nyquist bin `m = P/2`, else 2. `P` is small (5 to 16), so
both transforms are small real matrices. They are exact, and quicker than an FFT on complex
numbers. The imaginary parts of the Nyquist bin and of bin 0 change nothing and are left out.

Parameter names (`t_conv.weights1`) are those of the published EGNO, so its weights load as
they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


def fourier_matrices(n_times: int, n_modes: int) -> tuple[Tensor, Tensor]:
    """Real matrices of the truncated Fourier transform and of its inverse.

    The rows of the spectrum are: the bins that are real (0, and Nyquist if kept), then real and
    imaginary part of each other bin in turn.

    Args:
        n_times: number of time points `P`.
        n_modes: number of bins kept, at most `P // 2 + 1`.

    Returns:
        analysis `(n_rows, n_times)` and synthesis `(n_times, n_rows)`, float64.

    Raises:
        ValueError: if there are more modes than the time points allow.
    """
    _check_modes(n_times, n_modes)
    real = [m for m in range(n_modes) if m == 0 or 2 * m == n_times]
    inner = [m for m in range(n_modes) if m not in real]
    time = torch.arange(n_times, dtype=torch.float64)
    analysis, synthesis = [], []
    for m in real + inner:
        angle = 2.0 * math.pi * m * time / n_times
        weight = (1.0 if m in real else 2.0) / n_times
        analysis.append(torch.cos(angle))
        synthesis.append(weight * torch.cos(angle))
        if m not in real:
            analysis.append(-torch.sin(angle))
            synthesis.append(-weight * torch.sin(angle))
    return torch.stack(analysis), torch.stack(synthesis, 1)


def _check_modes(n_times: int, n_modes: int) -> None:
    if n_times < 1:
        raise ValueError(f"num_timesteps must be at least 1, got {n_times}")
    if not 1 <= n_modes <= n_times // 2 + 1:
        raise ValueError(
            f"num_modes is {n_modes}, but {n_times} time points have only {n_times // 2 + 1} "
            f"Fourier modes; choose num_modes from 1 to {n_times // 2 + 1} or raise num_timesteps"
        )


class SpectralConvolution(nn.Module):
    """One complex matrix per kept Fourier mode, mixing the channels of a signal over time."""

    analysis: Tensor
    synthesis: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, n_modes: int, n_times: int, scale: float
    ) -> None:
        """Draw the weights uniformly from 0 to `scale`, as published.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            n_modes: Fourier modes kept, at most `n_times // 2 + 1`.
            n_times: time points of the signal.
            scale: upper end of the initial weights.

        Raises:
            ValueError: if there are more modes than the time points allow.
        """
        super().__init__()
        analysis, synthesis = fourier_matrices(n_times, n_modes)
        self.n_modes = n_modes
        self.n_times = n_times
        # (in, out, mode, real and imaginary part)
        self.weights1 = nn.Parameter(scale * torch.rand(in_channels, out_channels, n_modes, 2))
        dtype = self.weights1.dtype
        # Not part of the weights file: they follow from n_times and n_modes.
        self.register_buffer("analysis", analysis.to(dtype), persistent=False)
        self.register_buffer("synthesis", synthesis.to(dtype), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the module; the matrices are made afresh, exact in the new dtype."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        analysis, synthesis = fourier_matrices(self.n_times, self.n_modes)
        self.analysis = analysis.to(self.analysis)
        self.synthesis = synthesis.to(self.synthesis)
        return self

    def forward(self, signal: Tensor) -> Tensor:
        """Convolve a signal over its first axis.

        Args:
            signal: `(n_times, ..., in_channels)`.

        Returns:
            `(n_times, ..., out_channels)`, in the dtype of the weights: like the published
            code, never in half precision.

        Raises:
            ValueError: if the first axis is not `n_times` long.
        """
        if signal.shape[0] != self.n_times:
            raise ValueError(
                f"the signal has {signal.shape[0]} time points, the convolution was made for "
                f"{self.n_times}"
            )
        with torch.autocast(device_type=signal.device.type, enabled=False):
            exact = signal.to(self.weights1.dtype)
            spectrum = (self.analysis @ exact.reshape(self.n_times, -1)).view(
                self.analysis.shape[0], -1, exact.shape[-1]
            )
            mixed = self._mix(spectrum)
            out = self.synthesis @ mixed.reshape(mixed.shape[0], -1)
            return out.view(*signal.shape[:-1], mixed.shape[-1])

    def _mix(self, spectrum: Tensor) -> Tensor:
        """Multiply every mode by its complex matrix: `(rows, n, in)` to `(rows, n, out)`."""
        n_real = 2 * self.n_modes - spectrum.shape[0]
        last_is_real = n_real == 2
        weights = self.weights1.permute(2, 3, 0, 1)  # (mode, part, in, out)
        inner = weights[1 : self.n_modes - 1] if last_is_real else weights[1:]
        ends = weights[:: self.n_modes - 1, 0] if last_is_real else weights[:1, 0]
        real = torch.bmm(spectrum[:n_real], ends)
        if inner.shape[0] == 0:
            return real
        n, channels = spectrum.shape[1], inner.shape[-1]
        # Real part over imaginary part, times real beside imaginary weights: one product.
        parts = spectrum[n_real:].reshape(inner.shape[0], 2 * n, -1)
        product = torch.bmm(parts, torch.cat((inner[:, 0], inner[:, 1]), -1))
        top, bottom = product.view(-1, 2, n, 2 * channels).unbind(1)
        re = top[..., :channels] - bottom[..., channels:]
        im = top[..., channels:] + bottom[..., :channels]
        return torch.cat((real, torch.stack((re, im), 1).flatten(0, 1)))


class FeatureConvolution(nn.Module):
    """Temporal convolution of invariant features: `h + LeakyReLU(K h)`."""

    def __init__(self, channels: int, n_modes: int, n_times: int) -> None:
        """Make the convolution.

        Args:
            channels: feature channels.
            n_modes: Fourier modes kept.
            n_times: time points.
        """
        super().__init__()
        self.t_conv = SpectralConvolution(
            channels, channels, n_modes, n_times, 1.0 / (channels * channels)
        )
        self.act = nn.LeakyReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Convolve `(n_times, n_nodes, channels)` features over time."""
        out: Tensor = features + self.act(self.t_conv(features))
        return out


class VectorConvolution(nn.Module):
    """Temporal convolution of vectors: `Z + K Z`, the same for x, y and z.

    It mixes channels of vectors and has no activation, so it commutes with rotations and
    reflections.
    """

    def __init__(self, channels: int, n_modes: int, n_times: int) -> None:
        """Make the convolution.

        Args:
            channels: vector channels; EGNO has 2, centred position and velocity.
            n_modes: Fourier modes kept.
            n_times: time points.
        """
        super().__init__()
        self.t_conv = SpectralConvolution(channels, channels, n_modes, n_times, 0.1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Convolve `(n_times, n_nodes, 3, channels)` vectors over time."""
        out: Tensor = vectors + self.t_conv(vectors)
        return out
