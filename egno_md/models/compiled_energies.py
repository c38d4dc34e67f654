r"""Energies of atoms and their gradients as one compiled function, for a network that stays as is.

The function takes flat graphs and gives

.. math::
    E_i, \qquad g_i = \frac{\partial E}{\partial r_i}, \qquad
    h_{ij} = \frac{\partial E}{\partial s_{ij}},

from which forces and virials follow without another derivative, with :math:`s_{ij}` the shift of
an edge through the cell. It belongs to one number of atoms and of edges. There are functions for
some numbers of edges; a graph takes the next larger and is filled up with edges beyond the cutoff,
which change nothing. Which one it takes depends on nothing but the graph, so that a run that is
resumed has the same bits.

| symbol | variable |
|---|---|
| E_i | `CompiledResult.atoms` |
| g_i, h_ij | `CompiledResult.gradients` |
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from egno_md.models.escn_md import ESCNMD
from egno_md.models.frozen_graph import Compiling, TensorFunction, frozen_graph
from egno_md.models.neighbours import filled_edges

_LOG = logging.getLogger(__name__)

#: Larger graphs are not compiled: their edges are worked on in blocks that fit in the cache.
MOST_EDGES = 20_000

#: Different numbers of atoms that are compiled; each takes a while.
MOST_SHAPES = 2

#: Numbers of edges that are compiled for one number of atoms; each takes a while.
MOST_ROOMS = 6

#: The smallest number of edges, how much larger each next one is, and what they are multiples of.
_SMALLEST_ROOM = 64
_STEP = 1.1
_MULTIPLE = 8

#: Atoms, whether there are gradients, dtype and device.
_Key = tuple[int, bool, torch.dtype, torch.device]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledResult:
    """Energies of atoms and, where asked for, gradients of their sum.

    Attributes:
        atoms: `(n,)` float64, eV.
        gradients: `(n, 3)` with respect to positions and `(n_edges, 3)` with respect to shifts,
            eV/Å, or None.
    """

    atoms: Tensor
    gradients: tuple[Tensor, Tensor] | None


class CompiledEnergies:
    """Compiles an `ESCNMD` for the first few shapes it meets and says which it does not take."""

    def __init__(self, model: ESCNMD, compiling: Compiling) -> None:
        """Take a network; nothing is compiled before it is needed.

        Args:
            model: the network; its weights need no gradient.
            compiling: how to compile.
        """
        self.model, self.compiling = model, compiling
        self.failure: str | None = None
        #: How often something was compiled.
        self.n_compiled = 0
        self._weights = [*model.parameters(), *model.buffers()]
        self._last_weights: list[tuple[int, int]] = []
        self._made: dict[_Key, dict[int, TensorFunction]] = {}
        self._refused: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Copies, and what is read from files, compile anew: code stays in its process."""
        return self.__dict__ | {"_made": {}, "_last_weights": [], "n_compiled": 0}

    def __call__(
        self,
        positions: Tensor,
        numbers: Tensor,
        edge_index: Tensor,
        shifts: Tensor,
        *,
        gradients: bool = True,
    ) -> CompiledResult | None:
        """Return energies and gradients, or None where the graph has to go without.

        Args:
            positions: `(n, 3)`, Å.
            numbers: `(n,)` int64, atomic numbers.
            edge_index: `(2, n_edges)` int64, source row, target row.
            shifts: `(n_edges, 3)`, Å, of the dtype of the positions.
            gradients: whether gradients are wanted.

        Raises:
            RuntimeError: if compiling fails and is strict.
        """
        if self.failure is not None:
            return None
        self._notice_weights()
        n_edges = edge_index.shape[1]
        key = (len(positions), gradients, positions.dtype, positions.device)
        room = room_for(n_edges)
        function = self._made.get(key, {}).get(room)
        if function is None:
            if not self._takes(key, n_edges):
                return None
            function = self._compiled(positions, numbers, room, gradients)
            if function is None:
                return None
            self._made.setdefault(key, {})[room] = function
            self.n_compiled += 1
        away_A = 2.0 * self.model.cutoff_A
        edges, padded = filled_edges(edge_index, shifts, room, away_A)
        with torch.no_grad():
            atoms, *slopes = function(positions.contiguous(), numbers, edges, padded)
        return CompiledResult(atoms, (slopes[0], slopes[1][:n_edges]) if gradients else None)

    def _takes(self, key: _Key, n_edges: int) -> bool:
        """Whether a graph is compiled; the reason why not is logged once.

        Raises:
            RuntimeError: if it is not and compiling is strict.
        """
        n_atoms, known = key[0], {key[0] for key in self._made}
        if n_edges > MOST_EDGES:
            why = f"graphs of more than {MOST_EDGES} edges are not compiled"
        elif n_atoms not in known and len(known) >= MOST_SHAPES:
            why = f"{MOST_SHAPES} numbers of atoms are compiled already"
        elif len(self._made.get(key, ())) >= MOST_ROOMS:
            why = f"{MOST_ROOMS} numbers of edges are compiled already"
        else:
            return True
        if self.compiling.strict:
            raise RuntimeError(f"a graph of {n_atoms} atoms and {n_edges} edges: {why}")
        if why not in self._refused:
            self._refused.add(why)
            _LOG.warning("a graph of %d atoms goes uncompiled: %s", n_atoms, why)
        return False

    def _notice_weights(self) -> None:
        """Forget what was made with other weights."""
        now = [(weight.data_ptr(), weight._version) for weight in self._weights]
        if now != self._last_weights:
            self._made.clear()
            self._last_weights = now

    def _compiled(
        self, positions: Tensor, numbers: Tensor, room: int, gradients: bool
    ) -> TensorFunction | None:
        """Compile for a number of atoms and edges, or say why not.

        Raises:
            RuntimeError: if that fails and is strict.
        """
        example = (
            positions.detach().clone().contiguous(),
            numbers,
            *filled_edges(
                numbers.new_zeros((2, 0)),
                positions.new_zeros((0, 3)),
                room,
                2.0 * self.model.cutoff_A,
            ),
        )
        with _one_block(self.model):
            made = frozen_graph(
                _traceable(self.model, len(positions), gradients),
                example,
                self.compiling,
                "energies",
            )
        if isinstance(made, str):
            self.failure = made
            return None
        return made


def room_for(n_edges: int) -> int:
    """The number of edges that a graph is filled up to, at most a tenth more and a few.

    Args:
        n_edges: of the graph.
    """
    room = float(_SMALLEST_ROOM)
    while _MULTIPLE * math.ceil(room / _MULTIPLE) < n_edges:
        room *= _STEP
    return _MULTIPLE * math.ceil(room / _MULTIPLE)


@contextmanager
def _one_block(model: ESCNMD) -> Iterator[None]:
    """Let the network take all edges at once and keep everything of them."""
    before = model.edges_at_once, model.kept_bytes
    model.edges_at_once, model.kept_bytes = sys.maxsize, float("inf")
    try:
        yield
    finally:
        model.edges_at_once, model.kept_bytes = before


def _traceable(model: nn.Module, n_atoms: int, gradients: bool) -> TensorFunction:
    """A function of a flat graph that tracing sees through."""

    def function(
        positions: Tensor, numbers: Tensor, edge_index: Tensor, shifts: Tensor
    ) -> tuple[Tensor, ...]:
        # Every atom is a graph of its own to the sum at the end, and to nothing else.
        own = torch.arange(n_atoms, device=positions.device)

        def energy(places: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
            atoms: Tensor = model(places, numbers, edge_index, moved, own, n_atoms)
            return atoms.sum(), atoms

        if not gradients:
            return (energy(positions, shifts)[1],)
        slopes, atoms = torch.func.grad(energy, argnums=(0, 1), has_aux=True)(positions, shifts)
        return (atoms, *slopes)

    return function
