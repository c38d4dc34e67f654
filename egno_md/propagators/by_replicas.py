"""Work on all replicas at once, without letting one that fails take the others with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def by_replicas(
    n_replicas: int, work: Callable[[Tensor], Result]
) -> Iterator[tuple[Tensor, Result | ValueError]]:
    """Do some work for all replicas in one batch; where that fails, for halves of them.

    Args:
        n_replicas: how many; with none nothing is done.
        work: is given indices `(n,)` int64, ascending; a `ValueError` means that it failed for
            at least one of them.

    Yields:
        Indices that were worked on together and their result, or one index and its error.
    """
    blocks = [torch.arange(n_replicas)] if n_replicas else []
    while blocks:
        block = blocks.pop()
        try:
            done: Result | ValueError = work(block)
        except ValueError as error:
            if len(block) > 1:
                middle = len(block) // 2
                blocks += [block[middle:], block[:middle]]
                continue
            done = error
        yield block, done
