"""Training, validation and test sets that share no trajectory neighbours.

Frames that follow one another in time are nearly the same frame; a random split puts such
twins on both sides and makes every held-out number too good. So sets are cut by whole
trajectories when there are enough of them, and otherwise by contiguous blocks with a gap.
Frames without an order (a published set of decorrelated frames) may be shuffled, when the
caller says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Indices of three sets without common members.

    Attributes:
        training: `(n,)` int64.
        validation: `(m,)` int64: chooses the best weights.
        test: `(k,)` int64: looked at once, at the end.
    """

    training: Tensor
    validation: Tensor
    test: Tensor

    def __post_init__(self) -> None:
        """Check that no index stands twice and no set is empty.

        Raises:
            ValueError: naming the set.
        """
        for name in ("training", "validation", "test"):
            if len(getattr(self, name)) == 0:
                raise ValueError(f"the {name} set is empty; more data or other shares are needed")
        together = torch.cat([self.training, self.validation, self.test])
        if len(torch.unique(together)) != len(together):
            raise ValueError(
                "a frame stands in more than one of the training, validation, test sets"
            )


def split_by_trajectory(
    trajectory: Tensor, validation: float, test: float, generator: torch.Generator
) -> Split:
    """Give whole trajectories to the sets.

    Args:
        trajectory: `(n,)` int64, trajectory of each member.
        validation: share of the trajectories for validation, above 0.
        test: share for the test, above 0.
        generator: draws the trajectories.

    Raises:
        ValueError: if there are fewer than three trajectories or the shares leave nothing.
    """
    _check_shares(validation, test)
    labels: Tensor = torch.unique(trajectory)
    n = len(labels)
    if n < 3:
        raise ValueError(f"a split by trajectories needs at least 3 of them, got {n}")
    n_validation, n_test = max(1, round(validation * n)), max(1, round(test * n))
    if n_validation + n_test >= n:
        raise ValueError(
            f"shares {validation} and {test} of {n} trajectories leave no training set"
        )
    order = labels[torch.randperm(n, generator=generator)]

    def members(chosen: Tensor) -> Tensor:
        return torch.isin(trajectory, chosen).nonzero()[:, 0]

    return Split(
        members(order[n_validation + n_test :]),
        members(order[:n_validation]),
        members(order[n_validation : n_validation + n_test]),
    )


def split_by_blocks(n: int, validation: float, test: float, gap: int = 0) -> Split:
    """Cut one trajectory into three contiguous blocks: training, validation, test.

    Args:
        n: members, in time order.
        validation: share for validation, above 0.
        test: share for the test, above 0.
        gap: members left out between blocks, so that neighbours do not face each other.

    Raises:
        ValueError: if nothing is left for a set.
    """
    _check_shares(validation, test)
    n_validation, n_test = max(1, round(validation * n)), max(1, round(test * n))
    n_training = n - n_validation - n_test - 2 * gap
    if n_training < 1:
        raise ValueError(f"{n} members with a gap of {gap} leave no training set")
    index = torch.arange(n)
    return Split(
        index[:n_training],
        index[n_training + gap : n_training + gap + n_validation],
        index[n_training + 2 * gap + n_validation :],
    )


def split_shuffled(n: int, validation: float, test: float, generator: torch.Generator) -> Split:
    """Shuffle members that have no order in time, and cut.

    Args:
        n: members, decorrelated.
        validation: share for validation, above 0.
        test: share for the test, above 0.
        generator: shuffles.

    Raises:
        ValueError: if nothing is left for a set.
    """
    blocks = split_by_blocks(n, validation, test)
    order = torch.randperm(n, generator=generator)
    return Split(order[blocks.training], order[blocks.validation], order[blocks.test])


def _check_shares(validation: float, test: float) -> None:
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(
            f"shares must lie between 0 and 1 and leave a rest, got validation {validation}, "
            f"test {test}"
        )
