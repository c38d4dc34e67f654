"""Edges in blocks of whole atoms, so that what is worked on fits in the processor's cache.

Edges are sorted by the atom that receives. A block is a run of atoms with all their edges; what
its atoms receive depends on no other block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Made = TypeVar("Made")


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
        geometry: Callable[[EdgeBlock], EdgeGeometry],
        lean: bool = False,
    ) -> None:
        """Work out the geometry of every block, or put it off.

        Args:
            cuts: the blocks; their atoms follow one another.
            geometry: makes the geometry of one.
            lean: keep nothing of any block for the gradient and make it anew each time: slower,
                in a small part of the memory.
        """
        self.cuts, self.geometry, self.lean = cuts, geometry, lean
        self.known = [] if lean else [geometry(cut) for cut in cuts]

    def gather(self, use: Callable[[EdgeGeometry, int, int], Tensor]) -> Tensor:
        """Ask every block for a row per atom and join the rows.

        Args:
            use: `(geometry, first atom, last + 1)` to `(n_block_atoms, ...)`.

        Returns:
            `(n_atoms, ...)`.
        """
        if not self.lean:
            pairs = zip(self.known, self.cuts, strict=True)
            return torch.cat([use(geometry, *cut.atoms) for geometry, cut in pairs])

        def made(cut: EdgeBlock) -> Tensor:
            return use(self.geometry(cut), *cut.atoms)

        return torch.cat([self.made_again(made, cut) for cut in self.cuts])

    def made_again(self, make: Callable[..., Made], *given: object) -> Made:
        """Call a function; if lean, keep its arguments and nothing it works out on the way.

        Args:
            make: what to call.
            given: its arguments.
        """
        if not self.lean:
            return make(*given)
        made: Made = checkpoint(make, *given, use_reentrant=False)
        return made


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
