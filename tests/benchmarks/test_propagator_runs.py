import pytest
import torch

from egno_md.benchmarks.propagator_runs import run
from egno_md.state import Molecule, State

WATER = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
POSITIONS = torch.tensor([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]).double()
START = State.at_rest(WATER, POSITIONS.repeat(64, 1, 1))
HOW = {"temperature_K": 300.0, "friction_per_ps": 10.0, "length_ps": 0.8, "seed": 1}
LENGTHS = (POSITIONS[[1, 2]] - POSITIONS[0]).norm(dim=-1)


def held(x: torch.Tensor, v: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Atoms that feel the bath but stay where they are."""
    return x[:, None].expand(-1, n, -1, -1), v[:, None].expand(-1, n, -1, -1)


def test_the_bath_sets_the_temperature_of_both_kinds() -> None:
    result = run(held, START, LENGTHS, **{**HOW, "length_ps": 4.0, "friction_per_ps": 50.0})
    assert result.n_failed == 0
    assert result.whole_ps == pytest.approx(4.0)
    assert result.hydrogen_K == pytest.approx(300.0, rel=0.04)
    assert result.heavy_K == pytest.approx(300.0, rel=0.04)
    assert result.cpu_ms_per_ps >= 0


@pytest.mark.parametrize("bad", [9.0, float("nan"), float("inf")])
def test_a_replica_that_breaks_once_has_failed_for_good(bad: float) -> None:
    calls = []

    def breaks(x: torch.Tensor, v: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        xs = x[:, None].repeat(1, n, 1, 1)
        if len(calls) == 51:
            xs[:16, -1, 1] = bad
        return xs, v[:, None].expand(-1, n, -1, -1)

    result = run(breaks, START, LENGTHS, **HOW)
    assert len(calls) == 100
    assert result.n_failed == 16
    assert result.whole_ps == pytest.approx(0.25 * 0.4 + 0.75 * 0.8)


def test_a_run_ends_when_all_have_failed() -> None:
    def flies(x: torch.Tensor, v: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return 3.0 * held(x, v, n)[0], held(x, v, n)[1]

    result = run(flies, START, LENGTHS, **HOW)
    assert result.n_failed == 64
    assert result.whole_ps == 0
    assert result.hydrogen_K is None
