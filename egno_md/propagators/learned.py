"""A trained EGNO as a propagator: one call, one segment made by the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from egno_md.bonds import bond_graph_distance
from egno_md.bundle import Bundle, build_model, load_bundle
from egno_md.models.hamiltonian_egno import HamiltonianEGNO
from egno_md.models.pair_classes import PairGraph, pair_graph
from egno_md.segment import MadeBy, Segment
from egno_md.state import Molecule, State


def molecule_graph(molecule: Molecule, model: HamiltonianEGNO) -> PairGraph:
    """Look up a molecule's atoms and pairs in a network's lists.

    Args:
        molecule: not periodic, with bonds.
        model: the network.

    Raises:
        ValueError: if the molecule is periodic, or naming the atom or pair that is not known.
    """
    if any(molecule.pbc):
        raise ValueError(
            f"the molecule is periodic (pbc {molecule.pbc}); learned segments are for molecules "
            "in vacuum so far: use the classical mode"
        )
    apart = bond_graph_distance(molecule.n_atoms, molecule.bonds, model.bond_cap)
    return pair_graph(molecule.numbers, molecule.masses, apart, model.elements, model.classes)


class LearnedPropagator:
    """Segments made by a Hamiltonian EGNO: symplectic, reversible, momentum-conserving."""

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
    ) -> None:
        """Prepare a network for one molecule.

        Args:
            model: the network.
            molecule: what will be propagated.
            n_frames: frames of a full segment, one for every application of the map.
            device: where the network computes.
            dtype: float32 or float64; positions and velocities keep the state's own.

        Raises:
            ValueError: if the molecule does not suit the network or there are no frames.
        """
        if n_frames < 1:
            raise ValueError(f"n_frames is {n_frames}; a segment has at least one frame")
        self.model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.molecule = molecule
        graph = molecule_graph(molecule, model)
        self.graph = PairGraph(
            graph.element_index.to(device),
            graph.pairs.to(device),
            graph.pair_class.to(device),
            graph.masses.to(device),
        )
        self.device = device
        self._n_frames = n_frames

    @classmethod
    def from_bundle(
        cls,
        bundle: str | Path | Bundle,
        molecule: Molecule,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> LearnedPropagator:
        """Prepare a bundle for one molecule; horizon and frames are the bundle's.

        Args:
            bundle: name, path or loaded bundle of kind "egno".
            molecule: what will be propagated.
            device: where the network computes.
            dtype: float32 or float64.

        Raises:
            ValueError: if the bundle is of another kind or does not suit the molecule.
        """
        loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, kind="egno")
        model = build_model(loaded)
        card = loaded.card
        if not isinstance(model, HamiltonianEGNO) or card.horizon_fs is None:
            raise ValueError(
                f"bundle {card.name} holds a {type(model).__name__}, which gives no velocities in "
                "fs; a propagator needs a bundle with a hamiltonian-egno network"
            )
        n_frames = round(card.horizon_fs / model.step_fs)
        return cls(model, molecule, n_frames=n_frames, device=device, dtype=dtype)

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
            ValueError: if the state is of another molecule or no frames are asked for.
        """
        if not torch.equal(state.molecule.numbers, self.molecule.numbers):
            raise ValueError(
                "the state's atoms differ from those of the molecule that this propagator "
                "was made for"
            )
        count = self._n_frames if n_frames is None else n_frames
        if count < 1:
            raise ValueError(f"n_frames is {count}; ask for at least one frame")
        x, v = self.model.advance(
            state.positions.to(self.device), state.velocities.to(self.device), self.graph, count
        )
        home = state.positions.device
        steps = torch.arange(1, count + 1, dtype=torch.float64)
        return Segment(
            state.molecule,
            state.time_fs + steps * self.frame_interval_fs,
            x.to(home),
            v.to(home),
            torch.full((state.n_replicas, count), int(MadeBy.NETWORK), dtype=torch.int8),
            cell=state.cell,
        )

    def restart_state(self) -> dict[str, Tensor]:
        """Return nothing: the next segment depends on the state alone."""
        return {}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back nothing."""
