"""Which propagators may propose: those that find the way back and keep phase-space volume.

Accept/reject on the energy samples a distribution exactly when the proposed end of a segment,
with its velocities flipped, leads back to the flipped start, and when the map from start to end
has a Jacobian determinant of one (Duane et al., Phys. Lett. B 195, 216 (1987),
doi:10.1016/0370-2693(87)91197-X). A propagator declares both; both can be measured here.

The way back is tried before a run. Volume is believed there, since a Jacobian is dear and, in
float32, too noisy to judge by; but a map that damps or drives motion does not find the way back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from egno_md.propagators.own_baths import has_bath
from egno_md.roles import Propagator
from egno_md.state import State


@dataclass(frozen=True, slots=True)
class WayBack:
    """By how much a map misses its start, there and back.

    Attributes:
        positions_A: largest distance of a coordinate, Å.
        velocities: of the velocities, root mean square with masses, as a share of their own.
    """

    positions_A: float
    velocities: float

    def within(self, limit: WayBack) -> bool:
        """Whether neither is more than a limit; nan is."""
        return self.positions_A <= limit.positions_A and self.velocities <= limit.velocities


#: Misses allowed over a whole proposal: rounding grows along a long chaotic segment. Velocities
#: damped by 0.1 % in a segment miss by 2e-3 of themselves, however short it is.
REVERSAL_LIMIT = WayBack(1e-3, 1e-3)

#: Misses allowed within `_SHORT_FS` of float64 states, whatever the dtype of a network. Those of
#: Verlet and of the packaged networks are below 1e-14 (copper's 1e-6); float32 states miss by 1e-5.
SHORT_REVERSAL_LIMIT = WayBack(1e-5, 1e-4)
_SHORT_FS = 40.0


def refuse_undeclared(propagator: Propagator) -> None:
    """Refuse a propagator that does not say that it is reversible and volume preserving.

    Raises:
        ValueError: saying what is missing, why it matters and what to take instead.
    """
    if not isinstance(propagator, Propagator):
        raise ValueError(
            f"a {type(propagator).__name__} cannot propose: a propagator is needed, such as "
            "LearnedPropagator.from_bundle(name, molecule), or VelocityVerlet with a potential"
        )
    wanted = {"reversible": "reversible", "volume_preserving": "volume preserving"}
    missing = [text for name, text in wanted.items() if not getattr(propagator, name, False)]
    if missing:
        own = "" if has_bath(propagator) else ", or velocity Verlet with its RestStartForce"
        raise ValueError(
            f"a {type(propagator).__name__} cannot propose: it is not {' and not '.join(missing)}, "
            "so accepting and rejecting its segments by their energy would sample a wrong "
            "distribution; take a LearnedPropagator (Hamiltonian EGNO), or velocity Verlet or "
            f"MultipleTimeStep with a cheap potential{own}"
        )


def reversal_error_A(propagator: Propagator, start: State, n_frames: int | None = None) -> float:
    """Go one segment forward, flip the velocities, go one segment forward again.

    Args:
        propagator: made for the molecule.
        start: best in float64.
        n_frames: length of the segment; a full one when None.

    Returns:
        Largest distance of a coordinate from where it started, Å.

    Raises:
        ValueError: if a segment is not finite, or as the propagator does.
    """
    return way_back(propagator, start, n_frames).positions_A


def way_back(propagator: Propagator, start: State, n_frames: int | None = None) -> WayBack:
    """Go one segment forward, flip the velocities, go one segment forward again.

    Args:
        propagator: made for the molecule.
        start: best in float64.
        n_frames: length of the segment; a full one when None.

    Returns:
        What positions and velocities are off by. A start at rest is measured by its speed at the
        turn.

    Raises:
        ValueError: if a segment is not finite, or as the propagator does.
    """
    there = propagator.advance(start, n_frames).last
    back = propagator.advance(there.with_(velocities=-there.velocities), n_frames).last
    masses = start.molecule.masses[:, None]

    def size(velocities: Tensor) -> float:
        squares = velocities.to("cpu", torch.float64).square()
        return float((masses * squares).sum().sqrt())

    scale = max(size(start.velocities), size(there.velocities))
    missed = size(back.velocities + start.velocities)
    return WayBack(
        float((back.positions - start.positions).abs().max()),
        missed / scale if scale > 0.0 else missed,
    )


def refuse_irreversible(propagator: Propagator, start: State, n_frames: int | None = None) -> None:
    """Refuse a propagator that does not find the way back from the end of a segment.

    A short one is tried first, by tighter limits. What the propagator remembers is as before
    afterwards. A segment that fails says nothing.

    Args:
        propagator: made for the molecule.
        start: where to try; its first replica is used, moving: at rest less is seen.
        n_frames: length of the segment; a full one when None.

    Raises:
        ValueError: with the distance by which it misses.
    """
    interval_fs = propagator.frame_interval_fs
    whole = n_frames or propagator.n_frames
    short = max(1, min(whole, int(_SHORT_FS / interval_fs + 1e-9)))
    for count in sorted({short, whole}):
        span_fs = count * interval_fs
        precise = start.positions.dtype == torch.float64 and span_fs <= _SHORT_FS + 1e-6
        limit = SHORT_REVERSAL_LIMIT if precise else REVERSAL_LIMIT
        before = {name: tensor.clone() for name, tensor in propagator.restart_state().items()}
        try:
            missed = way_back(propagator, start.replica(0), count)
        except ValueError:
            return
        finally:
            propagator.restore(before)
        if not missed.within(limit):
            raise ValueError(
                f"a {type(propagator).__name__} cannot propose {span_fs:g} fs: with velocities "
                f"flipped at the end it misses its start by {missed.positions_A:.2g} Å and "
                f"{missed.velocities:.2g} of the velocities, where {limit.positions_A:g} Å and "
                f"{limit.velocities:g} are allowed; take shorter proposals, float64 states, or a "
                "propagator that is reversible"
            )


def jacobian_by_differences(
    propagator: Propagator, start: State, n_frames: int | None = None, step: float = 1e-4
) -> Tensor:
    """Derivative of a segment's end with respect to its start, by central differences.

    Coordinates are sqrt(m) x and sqrt(m) v. Costs 12 segments for every atom, in one batch.

    Args:
        propagator: made for the molecule, computing in float64.
        start: float64; its first replica is the point.
        n_frames: length of the segment; a full one when None.
        step: of the differences, sqrt(amu) Å; velocities are moved by as much in 10 fs.

    Returns:
        `(6 n_atoms, 6 n_atoms)` float64, positions first.

    Raises:
        ValueError: as the propagator does.
    """
    one, n = start.replica(0), 3 * start.molecule.n_atoms
    root = one.molecule.masses.sqrt().to(one.positions)[:, None]
    sizes = torch.cat([torch.full((n,), step), torch.full((n,), 0.1 * step)]).to(one.positions)
    shifts = torch.diag(sizes)
    flat = torch.cat([shifts, -shifts]).view(4 * n, 2, -1, 3) / root
    batch = State(
        one.molecule,
        one.positions + flat[:, 0],
        one.velocities + flat[:, 1],
        one.time_fs,
        None if one.cell is None else one.cell.expand(4 * n, 3, 3),
    )
    end = propagator.advance(batch, n_frames).last
    ends = torch.stack([root * end.positions, root * end.velocities], 1).reshape(4 * n, -1)
    found: Tensor = ((ends[: 2 * n] - ends[2 * n :]) / (2.0 * sizes[:, None])).T
    return found.to(torch.float64)
