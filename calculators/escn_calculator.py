"""A trained eSCN as an ASE calculator."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from ase.calculators import calculator as ase_calculator

from egno_md.bundle import Bundle, load_bundle
from egno_md.calculators.evaluation_options import checked_device, checked_dtype
from egno_md.calculators.potential_calculator import PotentialCalculator
from egno_md.models.escn_md import ESCNMD
from egno_md.models.reused_neighbours import ReusedNeighbours
from egno_md.propagators.direct_force_potential import DirectForcePotential, load_potential
from egno_md.propagators.escn_potential import ESCNPotential

#: What ASE knows the calculator by.
NAME = "escn"


class ESCNCalculator(PotentialCalculator):
    """`atoms.calc = ESCNCalculator("ethanol-escn")`.

    Energy, free_energy (the same), forces, stress and energies of atoms. A published eSCN has
    energy and forces only, and its forces are not the gradient of its energy. In a periodic
    cell neighbours are remembered until an atom has moved by half the skin.
    """

    # What an eSCN for dynamics offers; ASE's tools look at the class.
    implemented_properties: ClassVar[list[str]] = [  # type: ignore[misc]
        "energy",
        "free_energy",
        "forces",
        "stress",
        "energies",
    ]

    def __init__(
        self,
        bundle: str | Path | Bundle | ESCNMD,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        n_threads: int | None = None,
        skin_A: float | None = 0.6,
        compile: bool = False,
    ) -> None:
        """Load a bundle.

        Args:
            bundle: a packaged name, a folder, a bundle that was read, or a network.
            device: "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one.
            dtype: "float32", "float64", or None for the bundle's own.
            n_threads: CPU threads while it computes; None leaves torch's setting.
            skin_A: how far beyond the cutoff neighbours are remembered; None: not at all.
            compile: compile at the first evaluation; pays in long runs of few atoms.

        Raises:
            FileNotFoundError: if there is no such bundle.
            ValueError: if it is damaged or of another kind, or an option is not allowed.
        """
        where, kind = checked_device(device), checked_dtype(dtype)
        potential: ESCNPotential | DirectForcePotential
        self.bundle: Bundle | None = None
        if isinstance(bundle, ESCNMD):
            potential = ESCNPotential(bundle, device=where, dtype=kind, compile=compile)
        else:
            read = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, kind="escn")
            self.bundle = read
            potential = load_potential(read, device=where, dtype=kind, compile=compile)
        if isinstance(potential, ESCNPotential) and skin_A is not None:
            potential.neighbours = ReusedNeighbours(skin_A)
        super().__init__(potential, n_threads=n_threads)
        self.parameters.update(self._record(where, kind) | ({"compile": True} if compile else {}))

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers it knows."""
        return tuple(self.potential.elements)  # type: ignore[attr-defined]

    @property
    def cutoff_A(self) -> float:
        """Atoms farther apart than this do not see each other directly, Å."""
        return float(self.potential.cutoff_A)  # type: ignore[attr-defined]

    def _get_name(self) -> str:
        return NAME

    def _record(self, device: torch.device, dtype: torch.dtype | None) -> dict[str, Any]:
        """What trajectories note of the calculator."""
        record: dict[str, Any] = {"device": str(device)}
        if dtype is not None:
            record["dtype"] = str(dtype).removeprefix("torch.")
        if self.bundle is not None:
            record["bundle"] = self.bundle.name
            record["sha256"] = self.bundle.card.weights_sha256
        return record


if NAME not in ase_calculator.external_calculators:
    # From now on `ase.calculators.calculator.get_calculator_class("escn")` finds it.
    ase_calculator.register_calculator_class(NAME, ESCNCalculator)  # type: ignore[no-untyped-call]
