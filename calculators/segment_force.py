"""A segment propagator as an ordinary ASE calculator: the force that explains its segment.

Let go at rest, atoms are somewhere else after a time dt. The force, constant over that time,
that would have brought them there is F = 2 m (x(dt; v = 0) - x) / dt^2. For a harmonic mode of
frequency w it is the true force times sinc^2(w dt / 2), the mollified force of Gautschi's
integrators, with which velocity Verlet in steps of dt is exact. It depends on positions only,
so ASE's caching is right, and it vanishes in every minimum. It is not the slope of an energy.

| symbol | variable |
|---|---|
| dt | `span_fs` |
| w dt | `turn`, in rad |
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from torch import Tensor

from egno_md.ase_atoms import molecule_from_atoms, refuse_charge_and_spin, state_from_atoms
from egno_md.calculators.evaluation_options import checked_threads, threads
from egno_md.calculators.segment_parts import (
    Guard,
    Maker,
    bonded,
    learned_or_given,
    potential_behind,
)
from egno_md.calculators.unchanged_atoms import surely_unchanged
from egno_md.propagators.learned import LearnedPropagator
from egno_md.propagators.own_baths import refuse_rest_start
from egno_md.roles import Propagator
from egno_md.state import Molecule, State
from egno_md.units import EV_PER_AMU_A2_FS2

#: Largest turn of the stiffest vibration in one span, rad, at which velocity Verlet with steps
#: of the span was stable in a chain of Morse bonds; it was not at 2.2.
STABLE_TURN = 1.5

#: Rounds of the power iteration for the stiffest vibration, and its displacement, Å.
_ROUNDS, _NUDGE_A = 12, 1e-3


class SegmentForceCalculator(Calculator):
    """`atoms.calc = SegmentForceCalculator("ethanol-egno", span_fs=2.0)`.

    For `ase.md` with steps of `span_fs`, or for optimisers, which want an energy, too: it comes
    from a companion potential, does not belong to the forces, and is not computed for them.
    For long segments and for a thermostat there is `SegmentDynamics`.
    """

    def __init__(
        self,
        propagator: Maker,
        *,
        span_fs: float | None = None,
        potential: Guard | None = None,
        bonds: Sequence[tuple[int, int]] | Tensor | None = None,
        device: str = "cpu",
        dtype: str | torch.dtype | None = None,
        n_threads: int | None = None,
    ) -> None:
        """Take the parts; a bundle is prepared for the first atoms it meets.

        Args:
            propagator: bundle of kind "egno", or any propagator.
            span_fs: time dt of the segment; one frame when None. A propagator that is no bundle
                wants a multiple of its frame interval.
            potential: bundle of kind "escn", ASE calculator or potential that gives the energy.
            bonds: pairs of atoms; guessed from the first positions when None.
            device: where a bundle computes.
            dtype: "float32" or "float64" for a bundle; float64 when None, because the force is
                a small difference.
            n_threads: CPU threads while it computes; None leaves torch's setting.

        Raises:
            FileNotFoundError: if there is no such bundle.
            ValueError: if an option is out of range.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        if span_fs is not None and not 0.0 < span_fs < float("inf"):
            raise ValueError(f"span_fs is {span_fs}; it must be a positive number of fs")
        if isinstance(propagator, Propagator):
            refuse_rest_start(propagator)
        self._maker, self._given_span_fs, self._bonds = propagator, span_fs, bonds
        of_bundle = dtype or "float64" if not isinstance(propagator, Propagator) else dtype
        self._options: dict[str, Any] = {"device": device, "dtype": of_bundle, "horizon_fs": None}
        self.n_threads = checked_threads(n_threads)
        self._companion = None if potential is None else potential_behind(potential)[1]
        energy = [] if potential is None else ["energy"]
        self.implemented_properties = ["forces", *energy]
        self._molecule: Molecule | None = None
        self._propagator: Propagator | None = None
        #: Angle by which the stiffest vibration turns in a span, rad, of the atoms at hand.
        self.turn = math.nan

    @property
    def span_fs(self) -> float:
        """Time dt that the force stands for.

        Raises:
            ValueError: if it is that of a bundle that has not met any atoms yet.
        """
        if self._given_span_fs is not None:
            return self._given_span_fs
        maker = self._propagator or self._maker
        if not isinstance(maker, Propagator):
            raise ValueError("the span is that of a bundle not read yet: ask for forces first")
        return maker.frame_interval_fs

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> object:
        """Return a result, or say why there is none.

        Raises:
            PropertyNotImplementedError: for an energy without a companion potential.
        """
        if name in ("energy", "free_energy") and self._companion is None:
            raise PropertyNotImplementedError(
                "the force of a segment has no energy; give SegmentForceCalculator a companion: "
                "potential=ESCNCalculator(...)"
            )
        return super().get_property(name, atoms, allow_calculation)  # type: ignore[no-untyped-call]

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Say what has changed, masses included: a segment depends on them."""
        changes: list[str] = []
        if not surely_unchanged(self.atoms, atoms):
            changes = super().check_state(atoms, tol)  # type: ignore[no-untyped-call]
        if not changes and self.atoms is not None:
            before = self.atoms.get_masses()
            now = atoms.get_masses()
            return [] if np.array_equal(before, now) else ["masses"]
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("forces",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute forces, or the companion's energy.

        Args:
            atoms: any that the propagator knows.
            properties: names as in ASE.
            system_changes: what changed since the last results.

        Raises:
            ValueError: naming the atom, number or cell vector that is wrong.
        """
        super().calculate(atoms, list(properties), list(system_changes))  # type: ignore[no-untyped-call]
        now: Any = self.atoms
        kept = {} if system_changes else dict(self.results)
        if "energy" in properties and self._companion is not None:
            kept["energy"] = self._companion.get_property("energy", now)  # type: ignore[no-untyped-call]
        if "forces" in properties:
            kept["forces"] = self._forces(now)
        self.results = kept

    def _forces(self, atoms: Atoms) -> np.ndarray:
        """Forces, `(n_atoms, 3)` eV/Å."""
        try:
            refuse_charge_and_spin(atoms)
            state = state_from_atoms(atoms, self._known(atoms), at_rest=True)
        except ValueError as error:
            raise ValueError(f"these atoms cannot be computed: {error}") from None
        with threads(self.n_threads):
            if self._propagator is None:
                self._prepare(state)
            acceleration = self._acceleration(state, self.span_fs)[0]
        forces = acceleration * state.molecule.masses[:, None] * EV_PER_AMU_A2_FS2
        if not bool(torch.isfinite(forces).all()):
            i = int((~torch.isfinite(forces)).any(-1).nonzero()[0])
            raise ValueError(
                f"the segment leads atom {i} to a place that is not finite; the geometry is "
                "outside what the propagator was trained for"
            )
        found: np.ndarray = forces.numpy()
        return found

    def _known(self, atoms: Atoms) -> Molecule:
        """The molecule; new atoms want a new propagator."""
        old = self._molecule
        if (
            old is None
            or not np.array_equal(old.numbers.numpy(), atoms.numbers)
            or not np.array_equal(old.masses.numpy(), atoms.get_masses())
            or old.pbc != tuple(bool(p) for p in atoms.pbc)
        ):
            at_rest = state_from_atoms(atoms, molecule_from_atoms(atoms), at_rest=True)
            old = self._molecule = bonded(at_rest, self._bonds)
            self._propagator = None
        return old

    def _prepare(self, state: State) -> None:
        """Make the propagator, and warn if the span is long for the stiffest vibration."""
        self._propagator = learned_or_given(self._maker, state.molecule, **self._options)
        shortest = self._propagator.frame_interval_fs
        if isinstance(self._propagator, LearnedPropagator):
            # Frames in between come from a polynomial that is right down to the shortest times.
            shortest /= 8.0
        self.turn = self._stiffest(state, shortest) * self.span_fs
        if self.turn > STABLE_TURN:
            longest = STABLE_TURN * self.span_fs / self.turn
            warnings.warn(
                f"the force stands for {self.span_fs:g} fs, in which the stiffest vibration turns "
                f"by {self.turn:.1f} rad; beyond about {STABLE_TURN} rad velocity Verlet with it "
                f"is not stable. Take span_fs up to {longest:.1f}, or SegmentDynamics",
                UserWarning,
                stacklevel=2,
            )

    def _acceleration(self, state: State, span_fs: float) -> Tensor:
        """2 (x(dt; v = 0) - x) / dt^2, `(n_replicas, n_atoms, 3)` Å/fs^2."""
        maker = self._propagator
        assert maker is not None
        ratio = span_fs / maker.frame_interval_fs
        n_frames = round(ratio)
        if n_frames >= 1 and abs(ratio - n_frames) < 1e-6 * ratio:
            end = maker.advance(state, n_frames)
        elif isinstance(maker, LearnedPropagator):
            end = maker.at_times(state, [span_fs])
        else:
            raise ValueError(
                f"span_fs = {span_fs:g} is not a multiple of the propagator's frame interval of "
                f"{maker.frame_interval_fs:g} fs"
            )
        moved: Tensor = end.positions[:, -1].to(state.positions) - state.positions
        return 2.0 * moved / span_fs**2

    def _stiffest(self, state: State, span_fs: float) -> float:
        """Estimate the highest frequency, rad/fs, by power iteration on the slope of the force."""
        masses = state.molecule.masses[:, None]
        draw = torch.Generator().manual_seed(0)
        u = torch.randn(state.positions.shape[1:], generator=draw, dtype=torch.float64)
        square = 0.0
        for _ in range(_ROUNDS):
            u = u * (_NUDGE_A / float(u.abs().max()))
            both = state.positions + torch.stack([u, -u])
            cell = None if state.cell is None else state.cell.expand(2, 3, 3)
            pair = State.at_rest(state.molecule, both, cell=cell)
            plus, minus = self._acceleration(pair, span_fs)
            pull = -0.5 * (plus - minus)
            square = max(square, float((masses * u * pull).sum() / (masses * u * u).sum()))
            if not float(pull.abs().max()) > 0.0:
                break
            u = pull
        # The mollified force shows w as 2/dt sin(w dt / 2).
        half = min(1.0, 0.5 * span_fs * math.sqrt(max(square, 0.0)))
        return 2.0 / span_fs * math.asin(half)
