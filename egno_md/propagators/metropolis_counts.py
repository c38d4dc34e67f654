"""What accept/reject did so far, and the one equality by which it can check itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

_COUNTED: Final = ("proposals", "accepted", "failed", "refused", "evaluations")
_SUMMED: Final = ("probability", "weight", "weight_squared")

#: A row of rejections is no chance beyond this many, and so many times what chance makes of it.
_ROW, _TIMES_CHANCE = 10, 3.0

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
        longest_row: most proposals in a row that one replica had rejected.
        longest_replica: that replica; -1 where there were none.
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
    longest_row: int = 0
    longest_replica: int = -1

    @property
    def stuck(self) -> bool:
        """Whether a replica had many more rejections in a row than chance makes of them.

        Of n proposals, each rejected with probability p, the longest row is about log n / log 1/p.
        """
        rejected = 1.0 - self.acceptance
        if not 0.0 < rejected < 1.0:
            return False
        chance = math.log(self.proposals) / -math.log(rejected)
        return self.longest_row > _ROW + _TIMES_CHANCE * chance

    @property
    def acceptance(self) -> float:
        """Share of the proposals that were accepted; NaN before the first."""
        return self.accepted / self.proposals if self.proposals else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return the fields, the acceptance and whether a replica is stuck, for run.json."""
        return {"acceptance": self.acceptance, **asdict(self), "stuck": self.stuck}


class MetropolisCounts:
    """Counts proposals; can be restarted."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._counts = torch.zeros(len(_COUNTED), dtype=torch.int64)
        self._sums = torch.zeros(len(_SUMMED), dtype=torch.float64)
        # Of each replica: rejections since its last accepted proposal, and most so far.
        self._row = self._longest = torch.zeros(0, dtype=torch.int64)

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
        if len(self._row) != len(rise):  # the first, or other replicas than before
            self._row = self._longest = torch.zeros(len(rise), dtype=torch.int64)
        self._row = torch.where(accepted, 0, self._row + 1)
        self._longest = torch.maximum(self._longest, self._row)

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
            longest_row=int(self._longest.max()) if len(self._longest) else 0,
            longest_replica=int(self._longest.argmax()) if bool(self._longest.any()) else -1,
        )

    def restart_state(self) -> dict[str, Tensor]:
        """All counts."""
        return {
            "counts": self._counts.clone(),
            "sums": self._sums.clone(),
            "rejected_row": self._row.clone(),
            "longest_row": self._longest.clone(),
        }

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
        # Records of an earlier version have no rows.
        none = torch.zeros(0, dtype=torch.int64)
        self._row = saved.get("rejected_row", none).clone()
        self._longest = saved.get("longest_row", none).clone()
