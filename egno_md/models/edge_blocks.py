"""Edges in blocks of whole atoms, so that what is worked on fits in the processor's cache.

Edges are sorted by the atom that receives. A block is a run of atoms with all their edges; what
its atoms receive depends on no other block. What one block costs must not grow with the system,
in the gradient either: tensors of all atoms or edges are split once, and rows that any block may
ask for come from `SharedRows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Made = TypeVar("Made")

#: What of the edges is kept for the gradient.
Keep = Literal["all", "geometry", "nothing"]


@dataclass(frozen=True, slots=True)
class EdgeBlock:
    """A run of receiving atoms and their edges.

    Attributes:
        atoms: first atom and the one after the last.
        edges: first edge and the one after the last.
    """

    atoms: tuple[int, int]
    edges: tuple[int, int]

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.atoms[1] - self.atoms[0]


@dataclass(frozen=True, slots=True, eq=False)
class EdgeGeometry:
    """What an edge block knows of its edges, the same in all layers.

    Attributes:
        into_frame: `(n_edges, n_coefficients, (L+1)^2)`, Wigner rows.
        out_of_frame: its transpose times the envelope.
        invariants: `(n_edges, radial_hidden)`.
        source: `(n_edges,)` int64, sending atoms.
        target: `(n_edges,)` int64, receiving atoms, counted from the block's first.
        n_atoms: receiving atoms.
    """

    into_frame: Tensor
    out_of_frame: Tensor
    invariants: Tensor
    source: Tensor
    target: Tensor
    n_atoms: int


class EdgeBlocks:
    """All edges, block by block."""

    def __init__(
        self,
        cuts: Sequence[EdgeBlock],
        geometry: Callable[[int], EdgeGeometry],
        keep: Keep = "all",
    ) -> None:
        """Work out the geometry of every block, or put it off.

        Args:
            cuts: the blocks; their atoms follow one another.
            geometry: makes the geometry of the block of a number.
            keep: what of a block is kept for the gradient: all; its geometry, the rest being made
                again; or nothing, the geometry being made again for every use. Each takes longer
                than the one before, in a small part of its memory.
        """
        self.cuts, self.geometry, self.keep = cuts, geometry, keep
        numbers = range(len(cuts)) if keep != "nothing" else ()
        self.known = [self.made_again(geometry, k) for k in numbers]

    def of_atoms(self, values: Tensor) -> Sequence[Tensor]:
        """Cut values of all atoms into those of each block's.

        Args:
            values: `(n_atoms, ...)`.
        """
        return torch.split(values, [cut.n_atoms for cut in self.cuts])

    def gather(self, use: Callable[[EdgeGeometry, int], Tensor]) -> Tensor:
        """Ask every block for a row per atom and join the rows.

        Args:
            use: `(geometry, number of the block)` to `(n_block_atoms, ...)`.

        Returns:
            `(n_atoms, ...)`.
        """
        if self.keep != "nothing":
            pieces = [self.made_again(use, known, k) for k, known in enumerate(self.known)]
            return torch.cat(pieces)

        def made(k: int) -> Tensor:
            return use(self.geometry(k), k)

        return torch.cat([self.made_again(made, k) for k in range(len(self.cuts))])

    def made_again(self, make: Callable[..., Made], *given: object) -> Made:
        """Call a function; unless all is kept, keep its arguments and results alone.

        Args:
            make: what to call.
            given: its arguments.
        """
        if self.keep == "all":
            return make(*given)
        made: Made = checkpoint(make, *given, use_reentrant=False)
        return made


class SharedRows:
    """Rows of one tensor for many blocks; their gradients are summed in one place.

    The gradient of `index_select` is as large as the tensor, for every block; here each adds its
    rows to the same sum, and the cost of all blocks grows with their edges alone. The sum is made
    in place, so there is no second derivative, and one gradient at a time.
    """

    def __init__(self, values: Tensor, n_blocks: int) -> None:
        """Take the tensor.

        Args:
            values: `(n, ...)`.
            n_blocks: how many will ask; a single one gets the plain rows.
        """
        self.sums: Tensor | None = None
        self.shared = n_blocks > 1
        self.values = values
        if self.shared:
            self.values = _Collected.apply(values, self)  # type: ignore[no-untyped-call]

    def rows(self, index: Tensor) -> Tensor:
        """Some of the rows.

        Args:
            index: `(m,)` int64.

        Returns:
            `(m, ...)`.
        """
        if not self.shared:
            return self.values.index_select(0, index)
        picked: Tensor = _Picked.apply(self.values, index, self)  # type: ignore[no-untyped-call]
        return picked


class _Collected(torch.autograd.Function):
    """The tensor itself; its gradient is what all rows came to."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, shared: SharedRows) -> Tensor:  # noqa: ANN401
        ctx.shared = shared
        ctx.set_materialize_grads(False)
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:  # noqa: ANN401
        # Runs after the gradients of all rows: they ask for it, though what they hand on is None.
        sums, ctx.shared.sums = ctx.shared.sums, None
        return sums, None


class _Picked(torch.autograd.Function):
    """Some rows; the gradient goes to the common sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, shared: SharedRows) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(index)
        ctx.shared, ctx.shape = shared, values.shape
        return values.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:  # noqa: ANN401
        (index,) = ctx.saved_tensors
        if ctx.shared.sums is None:
            ctx.shared.sums = gradient.new_zeros(ctx.shape)
        ctx.shared.sums.index_add_(0, index, gradient)
        return None, None, None


def cut_edges(target: Tensor, n_atoms: int, edges_at_once: int) -> list[EdgeBlock]:
    """Cut the edges into blocks of about so many.

    Args:
        target: `(n_edges,)` int64, receiving atoms; need not be sorted if one block holds all.
        n_atoms: number of atoms.
        edges_at_once: most edges of a block, unless one atom alone has more.

    Raises:
        ValueError: if there are several blocks and the edges are not sorted by target.
    """
    n_edges = target.shape[0]
    if n_edges <= edges_at_once:
        return [EdgeBlock((0, n_atoms), (0, n_edges))]
    if not bool((target[1:] >= target[:-1]).all()):
        raise ValueError("edges must be sorted by the atom that receives")
    ends = torch.bincount(target, minlength=n_atoms).cumsum(0).tolist()
    blocks, atom, edge = [], 0, 0
    while atom < n_atoms:
        last = atom + 1
        while last < n_atoms and ends[last] - edge <= edges_at_once:
            last += 1
        blocks.append(EdgeBlock((atom, last), (edge, ends[last - 1])))
        atom, edge = last, ends[last - 1]
    return blocks
