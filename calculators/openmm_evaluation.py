"""The function that a force of OpenMM calls: engine units in, model, engine units out.

OpenMM copies a force by pickling its function and never looks at the numbers that come back. So
what is pickled is a path and a hash, the model is looked up at the first evaluation (a failure
inside the unpickling would end the process without a word), and every number is checked here.
"""

from __future__ import annotations

import logging
import math
import zlib
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egno_md.calculators.shared_models import ModelSource, SharedPotential, find_shared
from egno_md.calculators.state_numbers import Box, box_nm, positions_nm
from egno_md.state import Molecule, State
from egno_md.units import KJ_PER_MOL, NM_PER_A

_LOG: Final = logging.getLogger(__name__)

#: eV to kJ/mol, and eV/Å to kJ/mol/nm.
_ENERGY: Final = 1.0 / KJ_PER_MOL
_FORCE: Final = 1.0 / (KJ_PER_MOL * NM_PER_A)
#: nm to Å.
_LENGTH: Final = 1.0 / NM_PER_A


@dataclass(frozen=True, slots=True)
class ForcePlan:
    """Everything a force needs besides the model itself.

    Attributes:
        source: where the model is.
        numbers: atomic numbers of the atoms it acts on.
        periodic: whether it sees periodic images.
        scale: global parameter that multiplies energy and forces; "" for none.
        rows: which particles the atoms are, if OpenMM does not pick them out itself; empty: it
            does.
        bonds: pairs of the atoms, counted among them, i < j, sorted; empty where nobody knows.
    """

    source: ModelSource
    numbers: tuple[int, ...]
    periodic: bool
    scale: str = ""
    rows: tuple[int, ...] = ()
    bonds: tuple[tuple[int, int], ...] = ()


class ForceEvaluation:
    """Energy and forces of some atoms for OpenMM's `PythonForce`; the last ones are kept."""

    def __init__(self, plan: ForcePlan, shared: SharedPotential | None = None) -> None:
        """Prepare; no model is loaded here.

        Args:
            plan: what to compute.
            shared: the model; None: it is looked up at the first evaluation.
        """
        self.plan, self._shared = plan, shared
        self._state: State | None = None
        self._box: Box | None = None
        self._last: tuple[Tensor, Box | None, float, Tensor] | None = None

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Return what makes this again: where the model is, not the model."""
        plan, source = self.plan, self.plan.source
        rows = np.asarray(plan.rows, dtype="<i4").tobytes()
        return _made_again, (
            type(self),
            (source.place, source.sha256, source.device, source.dtype, source.compile),
            zlib.compress(bytes(plan.numbers)),
            plan.periodic,
            plan.scale,
            zlib.compress(rows) if rows else b"",
            _packed(plan.bonds),
        )

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:  # noqa: ANN401
        """Return energy and forces.

        Args:
            state: OpenMM's state of the atoms: positions, box, parameters.

        Returns:
            Energy in kJ/mol; forces in kJ/mol/nm, `(n, 3)`, a row for each particle of `state`.

        Raises:
            ValueError: if the model refuses the atoms or a result is not finite. OpenMM passes
                on the message alone, so the rest goes to the log.
        """
        everything = torch.from_numpy(positions_nm(state))
        rows = list(self.plan.rows)
        energy, forces = self._computed(everything[rows] if rows else everything, state)
        factor = self._factor(state)
        mine = forces.to("cpu", torch.float64) * (_FORCE * factor)
        if rows:
            mine = torch.zeros_like(everything).index_copy_(0, torch.tensor(rows), mine)
        return energy * _ENERGY * factor, mine.numpy()

    def _computed(self, places: Tensor, state: Any) -> tuple[float, Tensor]:  # noqa: ANN401
        """Energy (eV) and forces (eV/Å, `(n, 3)`), perhaps from before.

        Args:
            places: positions, `(n, 3)`, nm, float64, a tensor that nobody else changes.
            state: of OpenMM; gives the box.
        """
        box = box_nm(state) if self.plan.periodic else None
        last = self._last
        if last is not None and last[1] == box and torch.equal(last[0], places):
            return last[2], last[3]
        try:
            energy, forces = self._fresh(places * _LENGTH, box)
        except Exception as error:
            _LOG.error("a force on %d atoms failed", len(places), exc_info=True)
            raise ValueError(
                f"{error} [atoms are counted within the {len(places)} of this force]"
            ) from error
        self._last = (places, box, energy, forces)
        return energy, forces

    def _fresh(self, x: Tensor, box: Box | None) -> tuple[float, Tensor]:
        """Ask the model about positions `(n, 3)`, Å, in a box, nm."""
        if self._shared is None:
            self._shared = find_shared(self.plan.source)
        potential = self._shared.potential
        # OpenMM may call from a thread of its own: what the caller switched there is unknown.
        if _usual_modes(x.device.type):
            found = potential.evaluate(self._state_at(x, box))
        else:
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                torch.autocast(x.device.type, enabled=False),
            ):
                found = potential.evaluate(self._state_at(x.clone(), box))
        energy, forces = float(found.energy[0]), found.forces[0]
        if not math.isfinite(energy):
            raise ValueError(f"the energy came out as {energy} eV")
        if not _all_finite(forces):
            atom = int((~torch.isfinite(forces)).any(1).nonzero()[0])
            raise ValueError(f"the force on atom {atom} came out not finite")
        return energy, forces

    def _state_at(self, x: Tensor, box: Box | None) -> State:
        """Make the state of positions `(n, 3)` Å; all but these is checked once per box."""
        last = self._state
        if len(x) != len(self.plan.numbers):
            raise ValueError(
                f"the force was made for {len(self.plan.numbers)} particles, the System has "
                f"{len(x)}"
            )
        if last is None or self._box != box or last.positions.device != x.device:
            plan = self.plan
            molecule = Molecule.from_numbers(
                plan.numbers, bonds=plan.bonds, pbc=(plan.periodic,) * 3
            )
            cell = None
            if box is not None:
                cell = torch.tensor(box, dtype=torch.float64, device=x.device) * _LENGTH
            self._state, self._box = State.at_rest(molecule, x, cell=cell), box
            return self._state
        if not _all_finite(x):
            cell = None if last.cell is None else last.cell[0]
            return State.at_rest(last.molecule, x, cell=cell)  # says what is wrong
        return _moved(last, x)

    def _factor(self, state: Any) -> float:  # noqa: ANN401
        """What the global parameter multiplies with."""
        if not self.plan.scale:
            return 1.0
        factor = float(state.getParameters()[self.plan.scale])
        if not abs(factor) < float("inf"):
            raise ValueError(f"global parameter {self.plan.scale} is {factor}")
        return factor


class TensorEvaluation(ForceEvaluation):
    """The same for openmm-torch's `PythonTorchForce`: positions come and forces go as tensors."""

    def __call__(self, state: Any, positions: Tensor | None = None) -> tuple[Any, Any]:  # noqa: ANN401
        """Return energy and forces.

        Args:
            state: OpenMM's state: box and parameters.
            positions: `(n, 3)`, nm, of any dtype, on the device of OpenMM's platform.

        Returns:
            Energy in kJ/mol, scalar; forces in kJ/mol/nm, as the positions in shape, dtype and
            device.

        Raises:
            ValueError: as `ForceEvaluation` does, and without positions.
        """
        if positions is None:
            raise ValueError(
                "PythonTorchForce passes positions; this function is not for PythonForce"
            )
        # A copy: the positions of the next step may come in the same memory.
        places = positions.detach().to(torch.float64, copy=True)
        energy, forces = self._computed(places, state)
        factor = self._factor(state)
        # Fresh tensors at every call: PythonTorchForce gives up references it does not own.
        scaled = (forces.double() * (_FORCE * factor)).to(positions)
        return torch.tensor(energy * _ENERGY * factor, dtype=torch.float64), scaled


def _usual_modes(device: str) -> bool:
    """Whether torch computes as it does at first: gradients on, nothing else.

    To look takes a fraction of the time that it takes to switch.
    """
    return (
        torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and not torch.is_autocast_enabled(device)
    )


def _all_finite(values: Tensor) -> bool:
    """Whether all are finite; the sum says so much faster, unless it overflows."""
    return math.isfinite(float(values.sum())) or bool(torch.isfinite(values).all())


def _moved(state: State, x: Tensor) -> State:
    """Return the state with other positions `(n, 3)` Å, which must be good, without all checks.

    The checks of a state take longer than everything else here together.
    """
    moved = object.__new__(State)
    for name in ("molecule", "velocities", "time_fs", "cell"):
        object.__setattr__(moved, name, getattr(state, name))
    object.__setattr__(moved, "positions", x[None])
    return moved


def _packed(bonds: tuple[tuple[int, int], ...]) -> bytes:
    """Bonds as few bytes; differences of neighbours repeat in a liquid."""
    steps = np.diff(np.array(bonds, dtype="<i4").reshape(-1, 2), axis=0, prepend=0)
    return zlib.compress(steps.astype("<i4").tobytes()) if bonds else b""


def _unpacked(packed: bytes) -> tuple[tuple[int, int], ...]:
    """Undo `_packed`."""
    if not packed:
        return ()
    steps = np.frombuffer(zlib.decompress(packed), dtype="<i4").reshape(-1, 2)
    return tuple((int(i), int(j)) for i, j in steps.cumsum(0))


def _made_again(
    kind: type[ForceEvaluation],
    source: tuple[str, str, str, str | None, bool],
    numbers: bytes,
    periodic: bool,
    scale: str,
    rows: bytes,
    bonds: bytes = b"",
) -> ForceEvaluation:
    """Undo `__reduce__`."""
    particles = np.frombuffer(zlib.decompress(rows), dtype="<i4").tolist() if rows else []
    atoms = tuple(zlib.decompress(numbers))
    plan = ForcePlan(ModelSource(*source), atoms, periodic, scale, tuple(particles))
    # Forces that an earlier version wrote have no bonds.
    return kind(replace(plan, bonds=_unpacked(bonds)))
