"""Frames of a learned map: with all pairs, or with the near ones kept up to date."""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.models.compiled_segment import SegmentMap
from egno_md.models.frozen_graph import Compiling
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph
from egno_md.models.periodic_pairs import periodic_graph
from egno_md.state import State

#: How many times as thick the skin may become for an atom that moves far in one step.
_THICKEST = 4.0


#: Positions and velocities of frames, the start first, `(n_replicas, n_frames, n_atoms, 3)`, Å,
#: not wrapped, and Å/fs.
Frames = tuple[Tensor, Tensor]


class AllPairsFrames:
    """Applies the map to replicas of a small molecule, all of whose pairs are listed once."""

    def __init__(
        self, model: HamiltonianEGNO, graph: PairGraph, compiling: Compiling | None = None
    ) -> None:
        """Take a network.

        Args:
            model: the network.
            graph: all pairs of the molecule, on the network's device.
            compiling: how to compile; None: not at all.
        """
        self._map = SegmentMap(model, graph, compiling)

    def __call__(self, state: State, n_steps: int) -> Frames:
        """Apply the map.

        Args:
            state: where to start, on the device of the network.
            n_steps: applications of the map.

        Raises:
            RuntimeError: if compiling fails and is strict.
        """
        return self._map.advance(state.positions, state.velocities, n_steps)


class NearFrames:
    """Applies the map with the pairs near one another, looked up as often as needed.

    Pairs are listed up to the cutoff and a skin. A frame counts only if no atom has moved by
    more than half the skin at any place where the map asked for forces; where one has, the map
    goes on from the last frame that counts with new pairs, and within a thicker skin if that was
    a single step. A replica with an atom that moves beyond the thickest within one step is lost:
    its frames from there on are NaN, which no guard accepts.
    """

    def __init__(self, model: HamiltonianEGNO, skin_A: float) -> None:
        """Take a network.

        Args:
            model: the network.
            skin_A: pairs up to the cutoff and this are listed.

        Raises:
            ValueError: if the skin is not positive.
        """
        if not 0.0 < skin_A < float("inf"):
            raise ValueError(f"skin_A is {skin_A}; it must be a positive length in Å")
        self.model, self.skin_A = model, skin_A
        self._n_pairs = 0

    def __call__(self, state: State, n_steps: int) -> Frames:
        """Apply the map.

        Args:
            state: where to start, on the device of the network.
            n_steps: applications of the map.

        Raises:
            ValueError: naming pairs that the network was not trained for, atoms in one place or
                a cell without room.
        """
        offsets = _whole_cells(state)
        xs, vs = [state.positions - offsets], [state.velocities]
        right_until = torch.full((state.n_replicas,), n_steps + 1, device=xs[0].device)
        skin_A = self.skin_A
        while len(xs) <= n_steps:
            graph = self._graph(state, xs[-1], skin_A)
            lost = right_until <= n_steps
            left = n_steps + 1 - len(xs)
            x, v, strayed = self._valid_frames(xs[-1], vs[-1], graph, left, lost, 0.5 * skin_A)
            if not x and skin_A < _THICKEST * self.skin_A:
                skin_A *= 2.0
                continue
            if not x:
                right_until[strayed] = len(xs)
            skin_A = self.skin_A
            if bool((right_until <= n_steps).all()):
                x, v = ([frames[-1]] * left for frames in (xs, vs))
            xs, vs = xs + x, vs + v
        frame = torch.arange(n_steps + 1, device=right_until.device)
        wrong = (frame >= right_until[:, None])[..., None, None]
        return (
            (torch.stack(xs, 1) + offsets[:, None]).masked_fill(wrong, float("nan")),
            torch.stack(vs, 1).masked_fill(wrong, float("nan")),
        )

    def _graph(self, state: State, positions: Tensor, skin_A: float) -> PairGraph:
        """Look up pairs; filled up to the most there were, so that shapes seldom change."""
        graph = periodic_graph(
            self.model,
            state.molecule,
            positions,
            state.cell,
            skin_A,
            at_least=self._n_pairs,
        )
        if skin_A == self.skin_A:
            self._n_pairs = graph.pairs.shape[1]
        return graph

    def _valid_frames(
        self,
        x0: Tensor,
        v0: Tensor,
        graph: PairGraph,
        n_steps: int,
        lost: Tensor,
        farthest_A: float,
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Frames until an atom moves too far, and which replicas had such an atom.

        Lost replicas stand still where they were last right.
        """
        xs, vs = [], []
        still = lost[:, None, None]
        strayed = torch.zeros_like(lost)
        flat = (x0.reshape(1, -1, 3), v0.reshape(1, -1, 3))
        for x_flat, v_flat, is_frame in self.model.stages(*flat, graph, n_steps):
            x, v = x_flat.reshape(x0.shape), v_flat.reshape(x0.shape)
            moved_A = (x - x0).norm(dim=-1).amax(1)
            # Not finite is too far.
            strayed = ~(moved_A <= farthest_A) & ~lost
            if bool(strayed.any()):
                break
            if is_frame:
                xs.append(torch.where(still, x0, x))
                vs.append(torch.where(still, 0.0, v))
        return xs, vs, strayed


def _whole_cells(state: State) -> Tensor:
    """Whole cell vectors that lie between every atom and the cell, Å, like the positions."""
    x = state.positions
    if state.cell is None:
        return torch.zeros_like(x)
    cell = state.cell.to(x)
    cells = (x @ torch.linalg.inv(cell)).floor() * torch.tensor(state.molecule.pbc).to(x)
    offsets: Tensor = cells @ cell
    return offsets
