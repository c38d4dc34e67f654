"""A trained EGNO as a propagator: one call, one segment made by the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from egno_md.bonds import bond_graph_distance
from egno_md.bundle import Bundle, build_model, load_bundle
from egno_md.models.compiled_gradient import CompiledGradient
from egno_md.models.frame_interpolation import path_at_times
from egno_md.models.frozen_graph import Compiling
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph, element_rows, pair_graph
from egno_md.propagators.learned_frames import AllPairsFrames, Frames, NearFrames
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule, State

#: Molecules with more atoms have their near pairs looked up instead of all pairs.
_MOST_ATOMS_WITH_ALL_PAIRS = 60


def all_pairs_listed(molecule: Molecule) -> bool:
    """Whether a molecule is small enough to have all its pairs listed, once."""
    return not any(molecule.pbc) and molecule.n_atoms <= _MOST_ATOMS_WITH_ALL_PAIRS


def molecule_graph(molecule: Molecule, model: HamiltonianEGNO) -> PairGraph:
    """Look up a molecule's atoms and all its pairs in a network's lists.

    Args:
        molecule: not periodic, with bonds.
        model: the network.

    Raises:
        ValueError: if the molecule is periodic, or naming the atom or pair that is not known.
    """
    if any(molecule.pbc):
        raise ValueError(
            f"the molecule is periodic (pbc {molecule.pbc}): its pairs depend on where atoms are, "
            "see periodic_graph"
        )
    apart = bond_graph_distance(molecule.n_atoms, molecule.bonds, model.bond_cap)
    return pair_graph(molecule.numbers, molecule.masses, apart, model.elements, model.classes)


class LearnedPropagator:
    """Segments made by a Hamiltonian EGNO: symplectic, reversible, momentum-conserving.

    Small molecules have all their pairs listed once. For periodic systems and large molecules
    the near pairs are looked up at the start of every segment, and again where an atom moves
    beyond the skin; all replicas then are one graph. Positions are never wrapped.

    Compiled, a long run takes a fraction of the processor time and gives the same frames to
    rounding; the first segment of every number of replicas then takes up to a minute.
    """

    reversible = True
    volume_preserving = True

    def __init__(
        self,
        model: HamiltonianEGNO,
        molecule: Molecule,
        *,
        n_frames: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        skin_A: float = 1.0,
        compile: bool | Compiling = False,
    ) -> None:
        """Prepare a network for one molecule.

        Args:
            model: the network.
            molecule: what will be propagated.
            n_frames: frames of a full segment, one for every application of the map.
            device: where the network computes.
            dtype: float32 or float64; positions and velocities keep the state's own.
            skin_A: where near pairs are looked up, how far beyond the cutoff.
            compile: whether to compile, or how; where that fails, the reason is logged.

        Raises:
            ValueError: if the molecule does not suit the network, there are no frames or the
                skin is not positive.
        """
        if n_frames < 1:
            raise ValueError(f"n_frames is {n_frames}; a segment has at least one frame")
        self.model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.molecule = molecule
        self._frames_of: AllPairsFrames | NearFrames
        compiling = Compiling() if compile is True else (compile or None)
        near = NearFrames(self.model, skin_A)
        if all_pairs_listed(molecule):
            graph = molecule_graph(molecule, model).to(device)
            self._frames_of = AllPairsFrames(self.model, graph, compiling)
        else:
            element_rows(molecule.numbers, model.elements)
            self._frames_of = near
            if compiling is not None:
                self.model.compiled = CompiledGradient(
                    strict=compiling.strict, backend=compiling.backend
                )
        self.device = device
        self._n_frames = n_frames

    @classmethod
    def from_bundle(
        cls,
        bundle: str | Path | Bundle,
        molecule: Molecule,
        *,
        horizon_fs: float | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        skin_A: float = 1.0,
        compile: bool | Compiling = False,
    ) -> LearnedPropagator:
        """Prepare a bundle for one molecule.

        Args:
            bundle: name, path or loaded bundle of kind "egno".
            molecule: what will be propagated.
            horizon_fs: length of a full segment, a multiple of the network's step; what the
                bundle was trained for when None. Longer ones chain the same map.
            device: where the network computes.
            dtype: float32 or float64.
            skin_A: where near pairs are looked up, how far beyond the cutoff.
            compile: whether to compile, or how; where that fails, the reason is logged.

        Raises:
            ValueError: if the bundle is of another kind or does not suit the molecule, or the
                horizon is not a multiple of the step.
        """
        loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, kind="egno")
        model = build_model(loaded)
        card = loaded.card
        if not isinstance(model, HamiltonianEGNO) or card.horizon_fs is None:
            raise ValueError(
                f"bundle {card.name} holds a {type(model).__name__}, which gives no velocities in "
                "fs; a propagator needs a bundle with a hamiltonian-egno network"
            )
        length_fs = card.horizon_fs if horizon_fs is None else horizon_fs
        ratio = length_fs / model.step_fs
        n_frames = round(ratio) if math.isfinite(ratio) else 0
        if n_frames < 1 or abs(ratio - n_frames) > 1e-6 * ratio:
            raise ValueError(
                f"a horizon of {length_fs} fs is not a multiple of the {model.step_fs:g} fs that "
                f"bundle {card.name} covers in one step"
            )
        return cls(
            model,
            molecule,
            n_frames=n_frames,
            device=device,
            dtype=dtype,
            skin_A=skin_A,
            compile=compile,
        )

    @property
    def frame_interval_fs(self) -> float:
        """Time between frames: the network's step."""
        return self.model.step_fs

    @property
    def n_frames(self) -> int:
        """Frames of a full segment."""
        return self._n_frames

    def advance(self, state: State, n_frames: int | None = None) -> Segment:
        """Return the segment that the network predicts; it may be wrong, ask a judge.

        Args:
            state: where to start.
            n_frames: how many frames; a full segment when None.

        Raises:
            ValueError: if the state is of another molecule, no frames are asked for, or near
                pairs cannot be looked up.
        """
        count = self._n_frames if n_frames is None else n_frames
        if count < 1:
            raise ValueError(f"n_frames is {count}; ask for at least one frame")
        x, v = self._frames(state, count)
        times_fs = self.frame_interval_fs * torch.arange(1, count + 1, dtype=torch.float64)
        return self._segment(state, times_fs, x[:, 1:], v[:, 1:])

    def at_times(self, state: State, times_fs: Sequence[float] | Tensor) -> Segment:
        """Return frames at any times, those of `advance` at multiples of the network's step.

        In between a polynomial joins the map's own frames, see
        `egno_md.models.frame_interpolation`.

        Args:
            state: where to start.
            times_fs: times after the start, increasing, the first positive.

        Raises:
            ValueError: if the times do not increase from above zero, or as `advance` does.
        """
        times = torch.as_tensor(times_fs, dtype=torch.float64).cpu()
        if not bool((torch.diff(times, prepend=times.new_zeros(1)) > 0).all()):
            raise ValueError(f"times must increase from above 0 fs, got {times.tolist()}")

        def advance(positions: Tensor, velocities: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
            here = state.with_(positions=positions, velocities=velocities)
            x, v = self._frames(here, n_steps)
            return x[:, 1:].to(positions.device), v[:, 1:].to(positions.device)

        x, v = path_at_times(times, self.model.step_fs, state.positions, state.velocities, advance)
        return self._segment(state, times, x, v)

    def _frames(self, state: State, n_steps: int) -> Frames:
        """The network's own frames, the start first."""
        if not torch.equal(state.molecule.numbers, self.molecule.numbers):
            raise ValueError(
                "the state's atoms differ from those of the molecule that this propagator "
                "was made for"
            )
        if state.molecule.pbc != self.molecule.pbc:
            raise ValueError(
                f"the state is periodic along {state.molecule.pbc}; this propagator was made for "
                f"{self.molecule.pbc}"
            )
        here = State(
            self.molecule,
            state.positions.to(self.device),
            state.velocities.to(self.device),
            state.time_fs,
            None if state.cell is None else state.cell.to(self.device),
        )
        return self._frames_of(here, n_steps)

    def _segment(self, state: State, times_fs: Tensor, x: Tensor, v: Tensor) -> Segment:
        """Put frames where the state came from."""
        home = state.positions.device
        made_by = torch.full(tuple(x.shape[:2]), int(MadeBy.NETWORK), dtype=torch.int8)
        return Segment(
            state.molecule,
            state.time_fs + times_fs,
            x.to(home),
            v.to(home),
            made_by,
            cell=state.cell,
        )

    def restart_state(self) -> dict[str, Tensor]:
        """Return nothing: a remembered kick has the bits of one found again."""
        return {}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back nothing."""
