"""How far apart two histograms are, and how far apart they would be by chance.

A measure here takes counts `(..., n_bins)` of two samples and gives `(...)`. A difference
between a run and a reference means something only against the *floor*: the difference that
two pieces of the reference itself show when one of them is as long as the run. The reference
is therefore kept as the counts of many independent blocks; `sampling_floor` draws some of
them, compares them with the others, and repeats.

For small differences both measures grow with the noise of the two samples: the divergence
like (1/n + 1/m) and the mean absolute difference like its square root, for n and m blocks.
That law carries the floor to lengths that cannot be drawn, and it is exact for counts of
independent samples that fill their bins well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Floor:
    """What a measure gives between two pieces of the same reference.

    Attributes:
        mean: `(...)` float64, average over the draws.
        high: `(...)` float64, 95 % of the draws lie below.
        n_blocks: blocks in the smaller piece; what a run of that length is held against.
        extrapolated: whether the length law was used because it could not be drawn.
    """

    mean: Tensor
    high: Tensor
    n_blocks: float
    extrapolated: bool


def normalised(counts: Tensor) -> Tensor:
    """Turn counts into probabilities that sum to one.

    Args:
        counts: `(..., n_bins)`, not negative.

    Returns:
        `(..., n_bins)` float64.

    Raises:
        ValueError: if a histogram is empty, negative or not finite.
    """
    c = counts.to(torch.float64)
    total = c.sum(-1, keepdim=True)
    if not bool(torch.isfinite(c).all()) or bool((c < 0).any()):
        raise ValueError("histogram counts must be finite and not negative")
    if bool((total <= 0).any()):
        raise ValueError("a histogram without any counts cannot be compared; give it samples")
    return c / total


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence with the natural logarithm.

    This is the divergence itself, between 0 (equal) and ln 2 = 0.693 (nothing in common).
    Other programs print its square root, the Jensen-Shannon distance, under the same name.

    Args:
        first: `(..., n_bins)` counts or densities.
        second: `(..., n_bins)` counts or densities on the same bins.

    Returns:
        `(...)` float64.

    Raises:
        ValueError: if a histogram is empty, negative or not finite, or the bins differ.
    """
    p, q = _same_bins(first, second)
    middle = 0.5 * (p + q)
    # xlogy(0, .) is 0, which is the limit wanted for empty bins.
    safe = middle.clamp_min(1e-300)
    parts: Tensor = torch.special.xlogy(p, p / safe) + torch.special.xlogy(q, q / safe)
    return (0.5 * parts.sum(-1)).clamp_min(0.0)


def density_difference(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of two densities, times the width of their common range.

    For h(r), the density of all interatomic distances in 500 bins up to 10 Å, this is the
    "h(r) MAE" of Fu et al. 2023 (arXiv 2210.07237): mean |dh| x 10 Å, between 0 and 2.

    Args:
        first: `(..., n_bins)` counts.
        second: `(..., n_bins)` counts on the same bins.

    Returns:
        `(...)` float64, without unit.

    Raises:
        ValueError: as `jensen_shannon` does.
    """
    p, q = _same_bins(first, second)
    # Density = probability / bin width, and mean x range = sum x bin width: the widths cancel.
    return (p - q).abs().sum(-1)


def sampling_floor(
    blocks: Tensor,
    n_blocks: float,
    measure: Measure,
    generator: torch.Generator,
    *,
    noise_power: float = 1.0,
    n_draws: int = 64,
    kept: float = 1.0,
) -> Floor:
    """Measure how far a piece of the reference lies from the rest of it by chance.

    Args:
        blocks: `(n_total, ..., n_bins)` counts of independent blocks of the reference.
        n_blocks: length of the run, in blocks; may be a fraction.
        measure: `jensen_shannon` or `density_difference`.
        generator: chooses the blocks.
        noise_power: how the measure grows with the noise: 1 for `jensen_shannon`, 0.5 for
            `density_difference`.
        n_draws: how often to draw.
        kept: share of a block's frames that the run has in the time of a block, for a run of few
            frames that are far apart; 1 and more: all of them.

    Returns:
        The floor for comparing `n_blocks` blocks with the whole reference.

    Raises:
        ValueError: if there are fewer than two blocks or the length is not positive.
    """
    total = blocks.shape[0]
    if total < 2:
        raise ValueError(f"a sampling floor needs at least 2 reference blocks, got {total}")
    if not n_blocks > 0:
        raise ValueError(f"the run's length must be positive, got {n_blocks} blocks")
    drawn = min(max(1, round(n_blocks)), total // 2)
    everything = blocks.to(torch.float64).sum(0)
    values = []
    for _ in range(n_draws):
        picked = torch.randperm(total, generator=generator)[:drawn]
        piece = blocks[picked].to(torch.float64).sum(0)
        seen = _thinned(piece, kept, generator) if kept < 1.0 else piece
        values.append(measure(seen, everything - piece))
    samples = torch.stack(values)
    noise_drawn = 1.0 / drawn + 1.0 / (total - drawn)
    noise_wanted = 1.0 / n_blocks + 1.0 / total
    law = (noise_wanted / noise_drawn) ** noise_power
    return Floor(
        samples.mean(0) * law,
        torch.quantile(samples, 0.95, dim=0) * law,
        float(n_blocks),
        abs(n_blocks - drawn) > 0.5,
    )


def _thinned(counts: Tensor, kept: float, generator: torch.Generator) -> Tensor:
    """Counts of a random share of the frames, scaled back to all of them."""
    share = torch.full_like(counts, kept)
    return torch.binomial(counts.round(), share, generator=generator) / kept


def block_bootstrap(
    blocks: Tensor,
    reference: Tensor,
    measure: Measure,
    generator: torch.Generator,
    *,
    n_draws: int = 64,
) -> tuple[Tensor, Tensor]:
    """Measure a run against a reference, with the spread that its finite length leaves.

    Args:
        blocks: `(n_blocks, ..., n_bins)` counts of the run: replicas or stretches of them.
        reference: `(..., n_bins)` counts.
        measure: `jensen_shannon` or `density_difference`.
        generator: draws blocks with replacement.
        n_draws: how often to draw.

    Returns:
        The measure `(...)` of all blocks, and its standard error `(...)`; the error is NaN
        when there is only one block.

    Raises:
        ValueError: if there are no blocks.
    """
    n = blocks.shape[0]
    if n < 1:
        raise ValueError("a run without blocks cannot be compared")
    counts = blocks.to(torch.float64)
    value = measure(counts.sum(0), reference)
    if n == 1:
        return value, torch.full_like(value, float("nan"))
    draws = []
    for _ in range(n_draws):
        picked = torch.randint(n, (n,), generator=generator)
        draws.append(measure(counts[picked].sum(0), reference))
    return value, torch.stack(draws).std(0)


def _same_bins(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"histograms have {first.shape[-1]} and {second.shape[-1]} bins; "
            "both must be counted on the same bins"
        )
    return normalised(first), normalised(second)
