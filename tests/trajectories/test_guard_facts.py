"""What a guard bounds is in the record, the words and the report of its run."""

import pytest
import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.energy_judge import EnergyJudge
from egno_md.propagators.guarded import GuardedPropagator
from egno_md.propagators.thermostat import Thermostatted
from egno_md.state import Molecule, State
from egno_md.trajectories.generate import StoreOptions, generate
from egno_md.trajectories.guard_facts import guard_sentences
from egno_md.trajectories.report import write_report
from egno_md.trajectories.run_output import describe, run_facts
from egno_md.trajectories.run_record import read_run
from tests.trajectories.dimer import Dimer

CONFIG = {"mode": "guarded", "energy_every": 2, "recover_after": 3, "energy_limit_eV": 0.002}
LIMITS = {
    "energy_eV": 0.001,
    "energy_tolerance_eV": 0.003,
    "bond_A": 0.2,
    "contact_factor": None,
    "alarm_rate": 0.01,
    "confidence": 0.95,
    "n_windows": 299,
    "window_fs": 12.0,
}


def made(store, config, notes, *, judged=True):
    """A run whose fast propagator takes steps that are a little too long."""
    x = torch.zeros((3, 2, 3), dtype=torch.float64)
    x[:, 1, 0] = torch.tensor([1.02, 1.0, 1.06])
    start = State(Molecule.from_numbers([6, 1], bonds=[(0, 1)]), x, torch.zeros_like(x))
    fast = VelocityVerlet(Dimer(), 1.0, 2.0, 3)
    judges = [EnergyJudge(Dimer(), 0.001)] if judged else []
    guard = GuardedPropagator(
        fast,
        VelocityVerlet(Dimer(), 0.25, 2.0, 3),
        judges,
        segments_per_proposal=2,
        recover_after=3,
    )
    scheme = Thermostatted(guard, 300.0, 5.0, torch.Generator().manual_seed(2))
    summary = generate(
        scheme, start, length_ps=0.12, store=store, options=StoreOptions(config=config, notes=notes)
    )
    return guard, summary


def test_the_bound_is_recorded_and_said(tmp_path):
    guard, summary = made(tmp_path / "a", CONFIG, {"guard_limits": LIMITS})
    record = read_run(tmp_path / "a")
    counts = guard.statistics()
    assert sum(counts.rejections_by.values()) > 0
    assert record.guard == {
        "proposals": counts.segments,
        "largest_energy_error_eV": guard.judges[0].largest_eV,
        "energy_limit_eV": 0.001,
        "shortest_proposal_frames": counts.shortest_frames,
        "limits": LIMITS,
    }
    assert 0.0 < record.guard["largest_energy_error_eV"] <= 0.001
    assert run_facts(record, summary)["guard"] == record.guard
    said = guard_sentences(record.guard)
    assert said[0].startswith("largest change of the total energy over a proposal that was kept: ")
    assert said[0].endswith(f"(limit 0.001 eV, {counts.segments} proposals judged)")
    assert "would need 0.003 eV" in said[2]
    assert all(line in describe(record, summary) for line in said)
    write_report(tmp_path / "a", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for text in (
        said[0][1:],
        "A proposal is 2 segments in a row of the network.",
        f"proposals were as short as {counts.shortest_frames} frames",
        "before they were calibrated",
    ):
        assert text in page


def test_without_a_judge_of_the_energy_nothing_is_promised(tmp_path):
    made(tmp_path / "a", CONFIG, {}, judged=False)
    facts = read_run(tmp_path / "a").guard
    assert facts["largest_energy_error_eV"] is facts["energy_limit_eV"] is facts["limits"] is None
    assert guard_sentences(facts) == [
        f"energies of {facts['proposals']} proposals were not judged: nothing bounds them"
    ]


@pytest.mark.parametrize("mode", ["surrogate", "classical"])
def test_other_runs_have_no_such_facts(tmp_path, mode):
    made(tmp_path / "a", {"mode": mode}, {})
    assert read_run(tmp_path / "a").guard == {}


def test_where_every_proposal_is_rejected_at_once_nothing_is_claimed():
    facts = {
        "proposals": 7,
        "largest_energy_error_eV": None,
        "energy_limit_eV": 0.1,
        "limits": None,
    }
    assert guard_sentences(facts) == ["of 7 proposals nothing was kept whose energy was judged"]
    assert "were not judged" in guard_sentences({**facts, "energy_limit_eV": None})[0]
