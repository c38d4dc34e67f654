"""What goes into a store: a segment as columns, checked against what is there."""

from __future__ import annotations

import torch
from torch import Tensor

from egno_md.segment import MadeBy, Segment
from egno_md.state import State, kinetic_energy
from egno_md.trajectories.store_format import StoreHeader


def start_segment(start: State) -> Segment:
    """Return the start as a segment of one frame."""
    return Segment(
        start.molecule,
        torch.tensor([start.time_fs], dtype=torch.float64),
        start.positions[:, None],
        start.velocities[:, None],
        torch.full((start.n_replicas, 1), int(MadeBy.GIVEN), dtype=torch.int8),
        cell=start.cell,
    )


def columns(segment: Segment, header: StoreHeader) -> dict[str, Tensor]:
    """Return what goes into each array, on the CPU."""
    columns = {
        "positions": segment.positions,
        "velocities": segment.velocities,
        "times_fs": segment.times_fs,
        "potential_energies": segment.potential_energies,
        "kinetic_energies": kinetic_energy(segment.molecule, segment.velocities),
        "made_by": segment.made_by,
    }
    if header.has_cell and segment.cell is not None:
        shape = (segment.n_replicas, segment.n_frames, 3, 3)
        columns["cells"] = segment.cell[:, None].expand(shape)
    return {name: values.detach().cpu() for name, values in columns.items()}


def check_fits(header: StoreHeader, start: State) -> None:
    """Refuse a start that is not of the store's replicas, atoms and cell.

    Raises:
        ValueError: naming both.
    """
    if (start.n_replicas, start.molecule.n_atoms) != (header.n_replicas, header.molecule.n_atoms):
        raise ValueError(
            f"the start has {start.n_replicas} replicas of {start.molecule.n_atoms} atoms, "
            f"the store is for {header.n_replicas} of {header.molecule.n_atoms}"
        )
    if header.has_cell != (start.cell is not None):
        raise ValueError("the start and the store disagree on whether there is a cell")


def check_follows(state: State, segment: Segment) -> None:
    """Refuse a segment that does not go on from the last stored state, or is not finite.

    Raises:
        ValueError: saying what differs, or which frame is no state.
    """
    if segment.positions.shape[0] != state.n_replicas:
        raise ValueError(
            f"the segment has {segment.n_replicas} replicas, the store {state.n_replicas}"
        )
    if not float(segment.times_fs[0]) > state.time_fs:
        raise ValueError(
            f"the segment starts at {float(segment.times_fs[0])} fs, "
            f"not after the last stored frame at {state.time_fs} fs"
        )
    finite = torch.isfinite(segment.positions) & torch.isfinite(segment.velocities)
    good = finite.all(3).all(2).all(0)
    if not bool(good.all()):
        k = int((~good).nonzero()[0])
        try:
            segment.frame(k)
        except ValueError as error:
            raise ValueError(
                f"the frame at {float(segment.times_fs[k]):g} fs is no state: {error}; the store "
                f"ends at {state.time_fs:g} fs, and going on from there fails in the same way"
            ) from error
