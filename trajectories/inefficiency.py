"""How many frames of a series count as one independent sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def statistical_inefficiency(series: Tensor) -> Tensor:
    """Number of frames that count as one independent sample, g = 1 + 2 sum of correlations.

    With C(t) the correlation at a lag of t of n frames, g = 1 + 2 sum_t (1 - t/n) C(t), the sum
    ending before the first C(t) that is not positive: Chodera et al., J. Chem. Theory Comput. 3,
    26 (2007), doi:10.1021/ct0502864. This is the definition of pymbar's
    `timeseries.statistical_inefficiency` with `mintime=0`, which a test holds it to. pymbar's
    default `mintime=3` keeps the first three lags whatever their sign: that is the same for a
    series that relaxes, not for one that swings about its mean within three frames.

    Args:
        series: `(n_replicas, n_frames)`; correlations are averaged over replicas.

    Returns:
        `()` float64, at least 1; 1 for a series that never changes.
    """
    x = series.to(torch.float64)
    n = x.shape[1]
    x = x - x.mean()
    spectrum = torch.fft.rfft(x, n=2 * n, dim=1)
    covariance = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=1)[:, :n].mean(0)
    pairs = torch.arange(n, 0, -1, dtype=torch.float64)
    correlation = covariance / pairs / (covariance[0] / n).clamp_min(1e-300)
    stop = (correlation <= 0).nonzero()
    end = int(stop[0]) if len(stop) else n
    weights = pairs[1:end] / n
    found: Tensor = 1.0 + 2.0 * (weights * correlation[1:end]).sum()
    return found.clamp_min(1.0)


def slowest_inefficiencies(parts: Sequence[Tensor]) -> Tensor:
    """Slowest of each column's values and squared deviations.

    Args:
        parts: `(n_replicas, n, n_columns)` each, stretches that follow one another; what is not
            finite is left out.

    Returns:
        `(n_columns,)` float64, in frames.
    """
    lengths = torch.cat(list(parts), 1).to(torch.float64)
    found = []
    for b in range(lengths.shape[2]):
        x = lengths[..., b]
        x = torch.nan_to_num(x - x[torch.isfinite(x)].mean(), nan=0.0, posinf=0.0, neginf=0.0)
        # A bond oscillates within 10 fs, but its amplitude changes over hundreds.
        found.append(
            torch.maximum(statistical_inefficiency(x), statistical_inefficiency(x.square()))
        )
    return torch.stack(found) if found else torch.zeros(0, dtype=torch.float64)
