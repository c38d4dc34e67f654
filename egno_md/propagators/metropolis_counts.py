"""What accept/reject did so far, and the one equality by which it can check itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

_COUNTED: Final = ("proposals", "accepted", "failed", "refused", "evaluations")
_SUMMED: Final = ("probability", "weight", "weight_squared")

#: A proposal whose energy falls by more than this many kT counts as if it fell by this much:
#: only a start far from equilibrium has such falls, and exp would overflow.
_LARGEST_FALL: Final = 50.0


@dataclass(frozen=True, slots=True)
class MetropolisStatistics:
    """Counts of all replicas together, since the start of the run.

    Attributes:
        proposals: segments proposed.
        accepted: those that were accepted.
        failed: those that the proposal could not make, or not with finite numbers; rejected.
        refused: those of which the target gave no finite energy; rejected.
        target_evaluations: energies of the target that were computed.
        mean_probability: mean of min(1, exp(-dH/kT)), acceptance with less noise.
        creutz_average: mean of exp(-dH/kT); 1 in equilibrium if the map is reversible and volume
            preserving (Creutz, Phys. Rev. D 38, 1228 (1988), doi:10.1103/PhysRevD.38.1228).
        creutz_error: its standard error, proposals taken as independent.
        proposal_fs: length of a proposal.
    """

    proposals: int
    accepted: int
    failed: int
    refused: int
    target_evaluations: int
    mean_probability: float
    creutz_average: float
    creutz_error: float
    proposal_fs: float

    @property
    def acceptance(self) -> float:
        """Share of the proposals that were accepted; NaN before the first."""
        return self.accepted / self.proposals if self.proposals else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the acceptance for run.json."""
        return {"acceptance": self.acceptance, **asdict(self)}


class MetropolisCounts:
    """Counts proposals; can be restarted."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._counts = torch.zeros(len(_COUNTED), dtype=torch.int64)
        self._sums = torch.zeros(len(_SUMMED), dtype=torch.float64)

    @property
    def any_proposals(self) -> bool:
        """Whether there was a proposal."""
        return bool(self._counts[0])

    def evaluated(self, n: int) -> None:
        """Note that so many energies of the target were computed."""
        self._counts[_COUNTED.index("evaluations")] += n

    def proposed(self, rise: Tensor, accepted: Tensor, failed: Tensor, refused: Tensor) -> None:
        """Note a proposal of every replica.

        Args:
            rise: `(n_replicas,)` float64, dH/kT, infinite where there is none.
            accepted: `(n_replicas,)` bool.
            failed: likewise, no finite proposal.
            refused: likewise, no finite energy.
        """
        weight = (-rise).clamp(max=_LARGEST_FALL).exp()
        self._counts[:4] += torch.stack(
            [torch.tensor(len(rise)), accepted.sum(), failed.sum(), refused.sum()]
        )
        self._sums += torch.stack([weight.clamp(max=1.0), weight, weight.square()]).sum(1)

    def statistics(self, proposal_fs: float) -> MetropolisStatistics:
        """Return what was counted.

        Args:
            proposal_fs: length of a proposal.
        """
        counts = dict(zip(_COUNTED, self._counts.tolist(), strict=True))
        n = counts["proposals"]
        means = self._sums / n if n else torch.full_like(self._sums, float("nan"))
        probability, weight, squared = means.tolist()
        variance = max(squared - weight * weight, 0.0) if n else float("nan")
        return MetropolisStatistics(
            proposals=n,
            accepted=counts["accepted"],
            failed=counts["failed"],
            refused=counts["refused"],
            target_evaluations=counts["evaluations"],
            mean_probability=probability,
            creutz_average=weight,
            creutz_error=(variance / n) ** 0.5 if n else float("nan"),
            proposal_fs=proposal_fs,
        )

    def restart_state(self) -> dict[str, Tensor]:
        """All counts."""
        return {"counts": self._counts.clone(), "sums": self._sums.clone()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take back what `restart_state` gave.

        Raises:
            ValueError: if the record is not of accept/reject.
        """
        for name, now in (("counts", self._counts), ("sums", self._sums)):
            if name not in saved or saved[name].shape != now.shape:
                raise ValueError(
                    f"the restart record was not made by Metropolised segments: its {name} are "
                    f"{tuple(saved[name].shape) if name in saved else 'missing'}, "
                    f"{tuple(now.shape)} is needed"
                )
        self._counts, self._sums = saved["counts"].clone(), saved["sums"].clone()
