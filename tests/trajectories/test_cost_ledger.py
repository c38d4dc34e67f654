import json
import math

import pytest
import torch

from egno_md.roles import EnergyForces
from egno_md.state import Molecule, State
from egno_md.trajectories.classical_baselines import classical_baselines
from egno_md.trajectories.cost_ledger import (
    ClassicalCost,
    cost_ledger,
    duration,
    measure_classical_cost,
)

CLASSICAL = ClassicalCost(4.0, 3.0, 0.5, 16, 100, "some potential")


class Spring:
    """Pulls every atom to the origin and counts its calls."""

    def __init__(self):
        self.calls = 0

    def evaluate(self, state):
        self.calls += 1
        x = state.positions
        return EnergyForces(x.square().sum((1, 2)).double(), -2.0 * x)

    def energies(self, state):
        return state.positions.square().sum((1, 2)).double()


def test_break_even_is_training_over_saving():
    # 1 CPU-second per ps against 3: 2 saved per ps, 500 ps pay for 1000 s of training.
    ledger = cost_ledger(200.0, 100.0, 100.0, CLASSICAL, 1000.0)
    assert ledger.break_even_ps == pytest.approx(500.0)
    assert ledger.wall_speedup == pytest.approx(2.0)
    assert ledger.cpu_speedup == pytest.approx(3.0)
    assert "paid back only after 500 ps" in ledger.sentence()
    assert "3.0 times less CPU time" in ledger.sentence()


def test_a_long_run_has_paid():
    ledger = cost_ledger(2000.0, 1000.0, 1000.0, CLASSICAL, 1000.0)
    assert "paid back after 500 ps; this run alone covers 1 ns" in ledger.sentence()


def test_a_slower_run_says_never():
    ledger = cost_ledger(500.0, 600.0, 100.0, CLASSICAL, 1000.0)
    assert ledger.break_even_ps == math.inf
    assert "never" in ledger.sentence()
    assert "2.0 times the CPU time" in ledger.sentence()
    assert json.loads(json.dumps(ledger.to_json(), allow_nan=False))["break_even_ps"] == "never"
    copied = cost_ledger(500.0, 600.0, 100.0, CLASSICAL, 1000.0, trusted=False).sentence()
    assert "integrate classically instead" in ledger.sentence()
    assert "integrate classically" not in copied
    assert "a copy not to be trusted alone" in copied


def test_parareal_is_judged_by_the_wall_clock():
    # Twice the CPU time and half the wall-clock time: worth it.
    ledger = cost_ledger(200.0, 600.0, 100.0, CLASSICAL, 1000.0, kind="parareal", n_workers=8)
    assert ledger.speedup == pytest.approx(2.0)
    assert ledger.break_even_ps == pytest.approx(500.0)
    said = ledger.sentence()
    assert "On 8 workers this run was 2.0 times as fast, by the wall clock" in said
    assert "2.0 times its CPU time" in said
    assert ledger.to_json()["judged_by"] == "wall"
    slow = cost_ledger(800.0, 600.0, 100.0, CLASSICAL, 1000.0, kind="parareal").sentence()
    assert "On 1 worker this run took 2.0 times the wall-clock time" in slow
    assert "only with more workers" in slow


def test_proposals_are_no_course_of_time():
    quick = cost_ledger(200.0, 100.0, 100.0, CLASSICAL, 0.0, kind="proposals").sentence()
    assert "A picosecond of proposals needed 3.0 times less CPU time than one of" in quick
    assert "Nothing had to be trained" in quick
    slow = cost_ledger(200.0, 600.0, 100.0, CLASSICAL, 10.0, kind="proposals").sentence()
    assert "2.0 times the CPU time of one of classical" in slow
    assert "never" not in slow
    assert all("effective samples per CPU-second" in said for said in (quick, slow))


def test_what_training_is_made_of_and_the_rivals_are_kept():
    rivals = classical_baselines(2e-3, 1e-3, Molecule.from_numbers([6, 1]))
    spent = {"quick": 10.0, "slow": None}
    ledger = cost_ledger(1.0, 1.0, 1.0, CLASSICAL, baselines=rivals, training=spent)
    fields = json.loads(json.dumps(ledger.to_json(), allow_nan=False))
    assert fields["training_cpu_s_by_model"] == spent
    assert [b["cpu_over_run"] for b in fields["baselines"]] == pytest.approx([2.0, 1.0, 0.25])


def test_unknown_training_cost_is_said():
    ledger = cost_ledger(200.0, 100.0, 100.0, CLASSICAL)
    assert ledger.break_even_ps is None
    assert "not recorded" in ledger.sentence()


def test_cost_survives_json():
    text = json.dumps(CLASSICAL.to_json())
    assert ClassicalCost.from_json(json.loads(text)) == CLASSICAL
    with pytest.raises(ValueError, match="must have the fields"):
        ClassicalCost.from_json({"wall": 1.0})


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_times_must_be_positive(bad):
    with pytest.raises(ValueError, match="replica_ps must be positive"):
        cost_ledger(1.0, 1.0, bad, CLASSICAL)


def test_measuring_counts_steps_per_replica():
    molecule = Molecule.from_numbers([18, 18])
    positions = torch.ones(3, 2, 3, dtype=torch.float64)
    positions[:, 1] = 2.0
    spring = Spring()
    cost = measure_classical_cost(spring, State.at_rest(molecule, positions), 0.25, budget_s=0.02)
    assert (cost.n_replicas, cost.timestep_fs, cost.potential) == (3, 0.25, "Spring")
    # Every timed step called the potential; the pieces before and between add few more.
    assert cost.n_steps <= spring.calls <= 2 * cost.n_steps + 8
    elapsed = cost.wall_s_per_ps * cost.n_steps * 0.25e-3 * 3
    assert elapsed >= 0.02
    with pytest.raises(ValueError, match="budget_s"):
        measure_classical_cost(spring, State.at_rest(molecule, positions), budget_s=0.0)


def test_durations_have_fitting_units():
    assert [duration(ps) for ps in (0.05, 20.0, 1500.0, 2.5e6)] == [
        "50 fs",
        "20 ps",
        "1.5 ns",
        "2.5 µs",
    ]
