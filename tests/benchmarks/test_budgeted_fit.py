import json
from pathlib import Path

import torch
from torch import Tensor, nn

from egno_md.benchmarks.budgeted_fit import fit_within


def sample(batch_size: int, generator: torch.Generator) -> Tensor:
    return torch.randn((batch_size, 1), generator=generator)


def loss(network: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
    return (network(batch) - 3.0 * batch).square().mean(), {}


def validate(network: nn.Module) -> dict[str, float]:
    return {"score": float(loss(network, torch.ones(1, 1))[0].detach())}


def fitted(folder: Path, cpu_seconds: float, resume: bool = False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(1, 1)
    result = fit_within(
        model,
        sample,
        loss,
        validate,
        cpu_seconds=cpu_seconds,
        learning_rate=0.1,
        seed=1,
        folder=folder,
        resume=resume,
        description="line",
    )
    return model, result


def test_budget_is_used_and_the_line_is_found(tmp_path: Path) -> None:
    model, result = fitted(tmp_path / "fit", 0.3)
    assert result.best_score < 0.1
    assert abs(model.weight.item() - 3.0) < 0.3
    # Ends with its schedule or at a tenth above the budget, plus one validation.
    assert result.cpu_seconds < 0.8
    more = fitted(tmp_path / "more", 0.9)[1]
    assert more.steps > result.steps


def test_resuming_keeps_the_number_of_steps(tmp_path: Path) -> None:
    first = fitted(tmp_path, 0.2)[1]
    planned = json.loads((tmp_path / "steps.json").read_text())["steps"]
    again = fitted(tmp_path, 0.2, resume=True)[1]
    assert again.best_step == first.best_step
    assert json.loads((tmp_path / "steps.json").read_text())["steps"] == planned
