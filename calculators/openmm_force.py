"""An eSCN potential as a force of an OpenMM System.

| backend | class | when |
|---|---|---|
| python | `openmm.PythonForce` | always there; what "auto" means |
| python-torch | `openmmtorch.PythonTorchForce` | positions stay on the GPU; not in wheel 1.5 |
| torchscript | `openmmtorch.TorchForce` | no Python; see `torchscript_energy` |

OpenMM overlaps the function with other forces only if it is the only one of its kind in the
System: put a sum of models into one `Potential` rather than into two forces.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Final

import openmm
import torch
from openmm import app

from egno_md.bundle import Bundle
from egno_md.calculators.openmm_evaluation import ForceEvaluation, ForcePlan, TensorEvaluation
from egno_md.calculators.openmm_torch_backend import python_torch_force, torchscript_force
from egno_md.calculators.shared_models import SharedPotential, open_shared
from egno_md.roles import Potential

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What `backend` may be.
BACKENDS: Final = ("auto", "python", "python-torch", "torchscript")


def openmm_force(
    bundle: str | PathLike[str] | Bundle | Potential,
    topology_or_numbers: app.Topology | Sequence[int],
    atoms: Iterable[int] | None = None,
    backend: str = "auto",
    *,
    periodic: bool | None = None,
    scale: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    compile: bool = False,
) -> openmm.Force:
    """Make a force to add to a System: `system.addForce(openmm_force("ethanol-escn", topology))`.

    Serialised, the force is a path and a hash (below 2 kB); copies share the model.

    Args:
        bundle: name or path of an eSCN bundle, a bundle that was read, or any potential.
        topology_or_numbers: all particles of the System, as a topology or as atomic numbers; 0,
            or no element, for virtual sites and other particles that are no atoms. A topology's
            bonds are kept: a quick copy checks the order of the atoms by them.
        atoms: particles to act on; None: all that are atoms.
        backend: "python", "python-torch", "torchscript" or "auto" (python).
        periodic: whether the System is; None: if the topology has a box. Give it with numbers.
        scale: name of a global parameter, 1 by default, that multiplies energy and forces.
        device: where the model computes; None: CUDA where there is a device, else the CPU.
        dtype: float32 or float64; None: the bundle's own.
        compile: compile a bundle's network at the first evaluation; pays in long runs of few atoms.

    Returns:
        The force, in group 0, its periodic flag set.

    Raises:
        FileNotFoundError: if there is no such bundle.
        ValueError: for another kind of bundle, unknown atoms or elements, or a wrong backend.
        ImportError: if a backend needs openmm-torch and it cannot be imported, saying why.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if compile and backend == "torchscript":
        raise ValueError("backend torchscript makes code of its own; leave compile out")
    numbers, boxed = _particles(topology_or_numbers)
    particles = _chosen(numbers, atoms)
    shared = open_shared(bundle, device, dtype, compile)
    _check_model(shared, [numbers[i] for i in particles], particles)
    plan = ForcePlan(
        shared.source,
        tuple(numbers[i] for i in particles),
        boxed if periodic is None else periodic,
        _checked_scale(scale),
        bonds=_bonds(topology_or_numbers, particles),
    )
    chosen = [] if particles == list(range(len(numbers))) else particles
    force = _force_of(backend, plan, shared, chosen)
    force.setUsesPeriodicBoundaryConditions(plan.periodic)
    force.setName("ESCNForce")
    return force


def _force_of(
    backend: str, plan: ForcePlan, shared: SharedPotential, chosen: list[int]
) -> openmm.Force:
    """Make the force that a backend has."""
    if backend == "torchscript":
        return torchscript_force(shared.potential, plan, chosen)
    if backend == "python-torch":
        return python_torch_force(TensorEvaluation(plan, shared), chosen)
    return _python_force(plan, shared, chosen)


def _python_force(plan: ForcePlan, shared: SharedPotential, chosen: list[int]) -> openmm.Force:
    """Make a `PythonForce`; before OpenMM 8.6 it always sees all particles."""
    parameters = {plan.scale: 1.0} if plan.scale else {}
    if hasattr(openmm.PythonForce, "setParticles"):
        return openmm.PythonForce(ForceEvaluation(plan, shared), parameters, chosen)
    plan = replace(plan, rows=tuple(chosen))
    return openmm.PythonForce(ForceEvaluation(plan, shared), parameters)


def _particles(given: app.Topology | Sequence[int]) -> tuple[list[int], bool]:
    """Atomic number of every particle, 0 for what is no atom; whether there is a box."""
    if isinstance(given, app.Topology):
        numbers = [a.element.atomic_number if a.element else 0 for a in given.atoms()]
        return numbers, given.getPeriodicBoxVectors() is not None
    numbers = [_whole("topology_or_numbers has", z) for z in given]
    wrong = [i for i, z in enumerate(numbers) if not 0 <= z <= 118]
    if wrong:
        raise ValueError(
            f"particle {wrong[0]} has atomic number {numbers[wrong[0]]}; "
            "allowed are 1 to 118, and 0 for particles that are no atoms"
        )
    return numbers, False


def _bonds(
    given: app.Topology | Sequence[int], particles: list[int]
) -> tuple[tuple[int, int], ...]:
    """Bonds of a topology between the chosen particles, counted among these, i < j, sorted."""
    if not isinstance(given, app.Topology):
        return ()
    place = {particle: k for k, particle in enumerate(particles)}
    ends = ((place.get(a.index), place.get(b.index)) for a, b in given.bonds())
    pairs = {(min(i, j), max(i, j)) for i, j in ends if i is not None and j is not None}
    return tuple(sorted(pairs))


def _whole(what: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"{what} {value!r}, which is no whole number") from error


def _chosen(numbers: list[int], atoms: Iterable[int] | None) -> list[int]:
    """Check the particles to act on."""
    if atoms is None:
        particles = [i for i, z in enumerate(numbers) if z]
    else:
        particles = [_whole("atoms has", i) for i in atoms]
    if not particles:
        raise ValueError(f"there are no atoms to act on among {len(numbers)} particles")
    seen: set[int] = set()
    for i in particles:
        if not 0 <= i < len(numbers):
            raise ValueError(f"atoms has {i}; there are particles 0 to {len(numbers) - 1}")
        if i in seen:
            raise ValueError(f"atoms has {i} twice")
        if not numbers[i]:
            raise ValueError(f"particle {i} is no atom; take it out of atoms")
        seen.add(i)
    return particles


def _check_model(shared: SharedPotential, numbers: list[int], particles: list[int]) -> None:
    """Refuse elements the model does not know; warn of forces that are no gradient."""
    known = getattr(shared.potential, "elements", None)
    for number, particle in zip(numbers, particles, strict=True):
        if known is not None and number not in known:
            from ase.data import chemical_symbols

            names = ", ".join(chemical_symbols[z] for z in known)
            raise ValueError(
                f"particle {particle} is {chemical_symbols[number]} (Z = {number}); "
                f"this potential knows only {names}"
            )
    if not shared.conservative:
        warnings.warn(
            "the forces of this potential are not the gradient of its energy: dynamics with them "
            "heats or cools, and barostats see another energy than the forces",
            stacklevel=3,
        )


def _checked_scale(scale: str | None) -> str:
    if scale is not None and not scale.isidentifier():
        raise ValueError(f"scale must be the name of a global parameter, got {scale!r}")
    return scale or ""
