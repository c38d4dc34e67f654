"""The potential `escn` of openmm-ml: `MLPotential("escn", modelPath="ethanol-escn")`.

openmm-ml imports this module when it is imported itself, and an error here would make that fail.
So nothing is imported at the top, torch and OpenMM least of all.

| option | of | means |
|---|---|---|
| modelPath | MLPotential | name or path of an eSCN bundle |
| precision | MLPotential, create...System | "single" or "double"; else the bundle's own |
| device | MLPotential, create...System | where torch computes; else CUDA if there is a device |
| compile | MLPotential | whether the network is compiled at its first evaluation |
| scale | create...System | global parameter that multiplies energy and forces |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: What `precision` may be, and the type of numbers it means.
_PRECISIONS = {None: None, "single": "float32", "double": "float64"}


class ESCNPotentialFactory:
    """Makes what `MLPotential` works with."""

    def createImpl(self, name: str, **options: Any) -> Any:  # noqa: ANN401
        """Return the implementation of a potential.

        Args:
            name: "escn".
            options: modelPath, and precision and device as defaults for the Systems made.

        Raises:
            FileNotFoundError: if there is no such bundle.
            ValueError: without a modelPath, or for an option that is not known.
        """
        from openmmml.mlpotential import MLPotentialImpl

        class ESCNPotentialImpl(ESCNForces, MLPotentialImpl):  # type: ignore[misc]
            """Ours first, then what openmm-ml gives every implementation."""

        return ESCNPotentialImpl(name, **options)


class ESCNForces:
    """Adds the force of an eSCN bundle to Systems that openmm-ml makes."""

    def __init__(
        self,
        name: str,
        modelPath: Any = None,  # noqa: ANN401
        precision: str | None = None,
        device: Any = None,  # noqa: ANN401
        compile: bool = False,
        **unknown: Any,  # noqa: ANN401
    ) -> None:
        """Load the model, so that a wrong path is known at once.

        Args:
            name: "escn".
            modelPath: name or path of an eSCN bundle.
            precision: "single" or "double"; None: the bundle's own.
            device: where torch computes; None: CUDA if there is a device.
            compile: compile the network at the first evaluation.
            unknown: anything else is refused.

        Raises:
            FileNotFoundError: if there is no such bundle.
            ValueError: without a modelPath, or for an option that is not known.
        """
        if unknown:
            raise ValueError(
                f"MLPotential({name!r}) does not know {', '.join(unknown)}; "
                "it knows modelPath, precision, device, compile"
            )
        if modelPath is None:
            raise ValueError(
                f'MLPotential({name!r}) needs modelPath, an eSCN bundle such as "ethanol-escn"'
            )
        from egno_md.calculators.shared_models import open_shared

        self.name, self.modelPath, self.precision, self.device = name, modelPath, precision, device
        self.compile = compile
        # Kept, so that all Systems made with it share one model.
        self._shared = open_shared(modelPath, device, _dtype(precision), compile)

    def addForces(
        self,
        topology: Any,  # noqa: ANN401
        system: Any,  # noqa: ANN401
        atoms: Iterable[int] | None,
        forceGroup: int,
        precision: str | None = None,
        device: Any = None,  # noqa: ANN401
        scale: str | None = None,
        **others: Any,  # noqa: ANN401
    ) -> None:
        """Add the force to a System.

        Args:
            topology: of all particles, link atoms included.
            system: where to add it.
            atoms: particles to act on; None: all that are atoms.
            forceGroup: group of the force.
            precision: "single" or "double"; None: as `MLPotential` was told.
            device: where torch computes; None: as `MLPotential` was told.
            scale: global parameter that multiplies energy and forces; None: none.
            others: options of embeddings; a charge or an open shell is refused.

        Raises:
            ValueError: for an element or a charge the model does not know.
        """
        from egno_md.calculators.openmm_force import openmm_force

        _refuse_charges(self.name, others)
        boxed = topology.getPeriodicBoxVectors() is not None
        force = openmm_force(
            self.modelPath,
            topology,
            atoms,
            periodic=boxed or system.usesPeriodicBoundaryConditions(),
            scale=scale,
            device=self.device if device is None else device,
            dtype=_dtype(self.precision if precision is None else precision),
            compile=self.compile,
        )
        force.setForceGroup(forceGroup)
        system.addForce(force)

    def getMLLongRange(self) -> bool:
        """Say that nothing is seen beyond the cutoff and the layers behind it."""
        return False

    def getSupportedEmbeddings(self) -> list[str]:
        """Name embeddings of our own: none, openmm-ml's do."""
        return []


def _dtype(precision: str | None) -> str | None:
    if precision not in _PRECISIONS:
        raise ValueError(f'precision must be "single" or "double", got {precision!r}')
    return _PRECISIONS[precision]


def _refuse_charges(name: str, options: dict[str, Any]) -> None:
    for key, plain in (("charge", 0), ("multiplicity", 1)):
        if options.get(key, plain) != plain:
            raise ValueError(
                f"MLPotential({name!r}) knows neither charge nor spin, got {key}={options[key]}; "
                f"leave it out"
            )
