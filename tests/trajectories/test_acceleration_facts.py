"""What two time steps and parareal did is in the record, the words and the report of a run."""

import pytest
import torch

from egno_md.propagators.classical import VelocityVerlet
from egno_md.propagators.fine_slabs import SolvedSlab
from egno_md.propagators.multiple_time_step import MultipleTimeStep
from egno_md.propagators.parareal import Parareal
from egno_md.propagators.parareal_report import PararealReport
from egno_md.propagators.thermostat import Thermostatted
from egno_md.state import Molecule, State
from egno_md.trajectories.acceleration_facts import Acceleration, cpu_s_of_workers
from egno_md.trajectories.generate import StoreOptions, generate
from egno_md.trajectories.report import write_report
from egno_md.trajectories.run_output import describe, run_facts
from egno_md.trajectories.run_record import read_run
from tests.trajectories.dimer import Dimer
from tests.trajectories.page import Page

NESTED = {
    "mode": "classical",
    "inner_potential": "cheap:one",
    "guard": "dear:one",
    "timestep_fs": 0.5,
    "outer_step_fs": 1.0,
}
PARAREAL = {"mode": "parareal", "tolerance_A": 1e-4, "n_workers": 1}


def start():
    x = torch.zeros((3, 2, 3), dtype=torch.float64)
    x[:, 1, 0] = torch.tensor([1.02, 1.0, 1.06])
    return State(Molecule.from_numbers([6, 1], bonds=[(0, 1)]), x, torch.zeros_like(x))


def made(store, propagator, config, length_ps=0.024, resume=False):
    return generate(
        propagator,
        None if resume else start(),
        length_ps=length_ps,
        store=store,
        resume=resume,
        options=StoreOptions(config=config, notes={"warnings": ["mind the <step>"]}),
    )


def two_steps():
    return MultipleTimeStep(Dimer(), Dimer(), 0.5, 1.0, 2.0, 3)


def parareal():
    coarse, fine = VelocityVerlet(Dimer(), 1.0, 2.0, 3), VelocityVerlet(Dimer(), 0.25, 2.0, 3)
    scheme = Parareal(coarse, fine, n_slabs=4)
    return Thermostatted(scheme, 300.0, 5.0, torch.Generator().manual_seed(2))


def page_of(store, path):
    write_report(store, path)
    return Page(path.read_text()).words


def test_two_time_steps(tmp_path):
    made(tmp_path / "a", two_steps(), NESTED, 0.012)
    summary = made(tmp_path / "a", two_steps(), NESTED, resume=True)
    record = read_run(tmp_path / "a")
    facts = run_facts(record, summary)["multiple_time_step"]
    assert (facts["outer"], facts["inner"], facts["probing"]) == (25, 49, 24)
    assert facts["fastest_period_fs"] > 3.0
    assert "25 accurate, 49 cheap, in steps of 1 and 0.5 fs" in describe(record, summary)
    assert run_facts(record, summary)["warnings"] == ["mind the <step>"]
    page = page_of(tmp_path / "a", tmp_path / "report.html")
    assert "cheap:one, to find its fastest vibration" in page
    assert "dear:one with one time step, for comparison 0.5 49" in page
    assert "Mind the <step>." in page


def test_parareal_behind_a_bath(tmp_path):
    made(tmp_path / "a", parareal(), PARAREAL, 0.012)
    summary = made(tmp_path / "a", parareal(), PARAREAL, resume=True)
    record = read_run(tmp_path / "a")
    facts = run_facts(record, summary)["parareal"]
    assert facts["slabs"] == 12
    assert facts["iterations"] == sum(len(window) for window in facts["largest_changes_A"])
    assert "parareal: 12 slabs in" in describe(record, summary)
    page = page_of(tmp_path / "a", tmp_path / "report.html")
    assert "12 slabs of time were made" in page
    assert "What the guard did" not in page


@pytest.mark.parametrize(("make", "config"), [(two_steps, NESTED), (parareal, PARAREAL)])
def test_a_store_of_an_earlier_version_says_that_nothing_was_counted(
    make, config, tmp_path, monkeypatch
):
    propagator = make()
    whole = propagator.restart_state

    def without_counts():
        kept = whole().items()
        return {k: v for k, v in kept if not any(w in k for w in ("report.", "evaluations", "vib"))}

    monkeypatch.setattr(propagator, "restart_state", without_counts)
    summary = made(tmp_path / "a", propagator, config, 0.012)
    record = read_run(tmp_path / "a")
    assert record.acceleration.facts == {}
    assert record.acceleration.kind not in run_facts(record, summary)
    assert "did not keep what it counted" in page_of(tmp_path / "a", tmp_path / "report.html")
    made(tmp_path / "a", make(), config, resume=True)
    assert read_run(tmp_path / "a").acceleration.facts


def test_other_runs_have_none(tmp_path):
    made(tmp_path / "a", VelocityVerlet(Dimer(), 0.5, 2.0, 3), {"mode": "classical"})
    assert read_run(tmp_path / "a").acceleration is None
    page = page_of(tmp_path / "a", tmp_path / "report.html")
    assert "A classical run has no guard" in page
    assert "This run is classical integration itself" in page


def test_processor_time_of_workers_is_counted():
    # Of two sittings one had workers; which the settings name does not matter.
    report = PararealReport()
    zeros = torch.zeros((1, 2, 3, 3))
    slab = SolvedSlab(zeros, zeros, torch.zeros((1, 2)), cpu_s=1.5, wall_s=1.5, together=1)
    report.note(slab, whole=True, remote=True)
    kept = PararealReport.from_tensors(report.to_tensors())
    kept.note(slab, whole=True)
    assert (kept.remote_cpu_s, kept.fine_cpu_s) == (1.5, 3.0)
    facts = {"n_workers": 1, "fine_cpu_s": 3.0, "remote_cpu_s": kept.remote_cpu_s}
    assert cpu_s_of_workers(Acceleration("parareal", facts)) == 1.5
    assert cpu_s_of_workers(Acceleration("parareal", {})) == 0.0
    assert cpu_s_of_workers(None) == 0.0
