"""The judge that asks other networks: all must predict about the same frames.

A single network says nothing of its own error: under time reversal and rotation a reversible,
equivariant map agrees with itself by construction, and the forces left over at the end of a
segment rank neither segments nor atoms by their error (`egno-md benchmark guard --rows signals`
measures that). Networks trained apart do where they know too little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from egno_md.propagators.own_baths import has_bath
from egno_md.propagators.restart import named_under, taken_from
from egno_md.propagators.same_masses import other_mass
from egno_md.roles import Propagator, Verdict
from egno_md.segment import Segment
from egno_md.state import Molecule, State
from egno_md.trajectories.judges import atom_name, verdict_of


class EnsembleJudge:
    """Accepts frames that other propagators predict from the same start, within a limit.

    Each member costs as much as the proposal. Members must be about as good as what they judge:
    the disagreement is the error of the worse of both.
    """

    name = "ensemble"

    def __init__(self, members: Sequence[Propagator] | Propagator, limit_A: float) -> None:
        """Set the limit.

        Args:
            members: without a bath, of the frame interval of what is judged.
            limit_A: largest mean distance of an atom from where the members put it; calibrate it
                by `egno_md.trajectories.guard_calibration.tolerance_limit` of `disagreement_A`.

        Raises:
            ValueError: if there are no members, one is no propagator or has a bath, their
                intervals differ, or the limit is not positive.
        """
        if isinstance(members, Propagator):
            members = [members]
        if not members:
            raise ValueError("an ensemble needs at least one member beside what it judges")
        for member in members:
            if not isinstance(member, Propagator):
                raise ValueError(
                    f"a member of an ensemble is a propagator, got {type(member).__name__}; open a "
                    "bundle by LearnedPropagator.from_bundle(name, molecule)"
                )
            if has_bath(member):
                raise ValueError(
                    f"a {type(member).__name__} cannot be a member of an ensemble: it has a bath, "
                    "whose noise would be taken for disagreement"
                )
        intervals = sorted({member.frame_interval_fs for member in members})
        if intervals[-1] > intervals[0] * (1.0 + 1e-9):
            raise ValueError(f"the members make frames every {intervals} fs; all must be the same")
        if not 0.0 < limit_A < float("inf"):
            raise ValueError(f"limit_A is {limit_A}; it must be a positive number of Å")
        self.members = tuple(members)
        self.limit_A = limit_A

    def judge(self, start: State, segment: Segment) -> Verdict:
        """Ask every member for the same frames.

        Raises:
            ValueError: if the members' frames are at other times or for other masses, or as a
                member does.
        """
        apart = self.disagreement_A(start, segment)

        def reason(r: int, f: int) -> str:
            worst = int(apart[r, f].nan_to_num(nan=float("inf")).argmax())
            return (
                f"{atom_name(segment.molecule, worst)} is {float(apart[r, f, worst]):.2g} Å from "
                f"where {len(self.members)} other network(s) put it; allowed {self.limit_A:g} Å"
            )

        return verdict_of((apart <= self.limit_A).all(-1), reason)

    def disagreement_A(self, start: State, segment: Segment) -> Tensor:
        """Mean distance of every atom from where the members put it.

        Args:
            start: where the segment starts.
            segment: what is judged.

        Returns:
            `(n_replicas, n_frames, n_atoms)` float64, Å.

        Raises:
            ValueError: if the members' frames are at other times or for other masses, or as a
                member does.
        """
        for member in self.members:
            _check_same_masses(member, start.molecule)
        total = torch.zeros(segment.positions.shape[:3], dtype=torch.float64)
        for member in self.members:
            other = member.advance(start, segment.n_frames)
            if not torch.allclose(other.times_fs, segment.times_fs, rtol=0.0, atol=1e-6):
                raise ValueError(
                    f"a member of the ensemble makes frames every {member.frame_interval_fs} fs, "
                    f"the segment has its first at {float(segment.times_fs[0]) - start.time_fs} fs"
                )
            apart = (other.positions - segment.positions).norm(dim=-1)
            total += apart.to("cpu", torch.float64)
        return total / len(self.members)

    def restart_state(self) -> dict[str, Tensor]:
        """What the members need."""
        saved: dict[str, Tensor] = {}
        for k, member in enumerate(self.members):
            saved |= named_under(f"member{k}", member.restart_state())
        return saved

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave."""
        for k, member in enumerate(self.members):
            member.restore(taken_from(f"member{k}", saved))


def _check_same_masses(member: Propagator, molecule: Molecule) -> None:
    """Refuse a member for other masses: held atoms, deuterium, heavier hydrogens."""
    known = getattr(member, "molecule", None)
    if not isinstance(known, Molecule) or known.n_atoms != molecule.n_atoms:
        return
    if found := other_mass(known, molecule):
        atom, mine, theirs = found
        raise ValueError(
            f"atom {atom} has mass {mine:g} amu here and {theirs:g} amu in a member of the "
            "ensemble; make members for the molecule that moves: dyn.molecule of a "
            "SegmentDynamics, sim.molecule of a SegmentSimulation"
        )
