"""The acceleration tables: turns that go on, failures that are counted, honest ratios."""

import json
import math
from dataclasses import replace

import openmm
import pytest
import torch

from egno_md.benchmarks import acceleration_runs
from egno_md.benchmarks.acceleration import N_TURNS, lend
from egno_md.benchmarks.acceleration_rows import BY_OPENMM, ROWS, Bench, Contestant, rows_for
from egno_md.benchmarks.acceleration_runs import Runner
from egno_md.benchmarks.acceleration_tables import Sampled, break_even, joined
from egno_md.benchmarks.energy_rescaled import EnergyRescaled
from egno_md.benchmarks.fitted_force_field import FittedForceField, fit_force_field
from egno_md.benchmarks.rollout_subject import Subject
from egno_md.calculators.potential_from_openmm import OpenMMPotential
from egno_md.cli import main
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.hydrogen_masses import heavy_hydrogens
from egno_md.propagators.metropolised import Metropolised
from egno_md.state import kinetic_energy
from egno_md.trajectories.effective_samples import EffectiveSamples

from .springs import LENGTHS, MOLECULE, Springs, start


class Clock:
    """Processor time that passes by one second whenever it is asked for."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(acceleration_runs.time, "process_time", self.tick)

    def tick(self):
        self.now += 1.0
        return self.now


def langevin(seed=1):
    noise = torch.Generator().manual_seed(seed)
    return Contestant(Langevin(Springs(), 0.5, 8.0, 1, 300.0, 10.0, noise), 1, MOLECULE)


def samples(mean, cpu_s=10.0, training=0.0, failed=0, interval_fs=32.0):
    """A row of 100 frames of each of 4 replicas with so many effective samples."""
    verlet = VelocityVerlet(Springs(), 0.5, interval_fs, 1)
    failed_fs = torch.full((4,), math.nan, dtype=torch.float64)
    failed_fs[:failed] = 5.0
    return Sampled(
        Contestant(verlet, 1, MOLECULE, training),
        torch.zeros((4, 100, 3, 3)),
        torch.full((4, 100, 2), 300.0),
        failed_fs,
        cpu_s,
        0,
        0,
        EffectiveSamples(mean, mean / 2, "torsion 0-1-2-3", 400, interval_fs, 3, 4),
    )


class TestTurns:
    def test_two_turns_are_one_long_one_and_a_resumed_one_goes_on(self, monkeypatch):
        Clock(monkeypatch)
        whole = Runner(langevin(), start(3), LENGTHS, 2).turn(8.0)
        runner = Runner(langevin(), start(3), LENGTHS, 2)
        first, second = runner.turn(4.0), runner.turn(4.0)
        assert first["positions"].shape == (3, 4, 3, 3)
        both = torch.cat([first["positions"], second["positions"]], 1)
        assert torch.equal(both, whole["positions"])
        resumed = Runner(langevin(seed=7), start(3), LENGTHS, 2)
        resumed.warm_up()
        resumed.resume(first)
        again = resumed.turn(4.0)
        for key in ("positions", "temperatures_K", "end.velocities", "end.time_fs"):
            assert torch.equal(again[key], second[key]), key
        assert float(again["end.time_fs"]) == 64.0
        assert float(first["cpu_s"]) == 4.0

    def test_who_fails_is_noted_and_counted_no_more(self, monkeypatch):
        Clock(monkeypatch)
        torn = start(3)
        torn.velocities[1, 0] = torch.tensor([-0.4, 0.0, 0.0])
        verlet = VelocityVerlet(Springs(), 0.5, 1.0, 1)
        runner = Runner(Contestant(verlet, 1, MOLECULE), torn, LENGTHS, 1)
        found = runner.turn(5.0)
        assert found["failed_fs"].isnan().tolist() == [True, False, True]
        assert 1.0 <= float(found["failed_fs"][1]) <= 3.0
        assert bool(found["positions"][1, -1].isnan().all())
        assert bool(found["positions"][[0, 2]].isfinite().all())
        assert bool(found["temperatures_K"][1, -1].isnan().all())

    def test_where_all_have_exploded_the_row_is_over(self, monkeypatch):
        Clock(monkeypatch)
        wild = Contestant(VelocityVerlet(Springs(), 40.0, 4000.0, 1), 1, MOLECULE)
        runner = Runner(wild, start(3), LENGTHS, 1)
        found = runner.turn(100.0)
        assert found["positions"].shape[1] == 1
        assert found["failed_fs"].tolist() == [4000.0] * 3
        nothing = runner.turn(100.0)
        assert nothing["positions"].shape == (3, 0, 3, 3)
        one = joined(wild, [found, nothing])
        assert one.n_failed == 3
        assert one.effective is None
        assert one.rate(slowest=False) is None

    def test_memory_is_bounded(self, monkeypatch):
        Clock(monkeypatch)
        monkeypatch.setattr(acceleration_runs, "MOST_VALUES", 2 * 27 * 3)
        assert Runner(langevin(), start(3), LENGTHS, 2).turn(50.0)["positions"].shape[1] == 3

    def test_acceptance_is_that_of_the_turns(self, monkeypatch):
        Clock(monkeypatch)
        noise = torch.Generator().manual_seed(2)
        verlet = VelocityVerlet(Springs(), 0.5, 16.0, 1)
        sampler = Metropolised(verlet, Springs(), 300.0, 10.0, noise)
        contestant = Contestant(sampler, 1, MOLECULE, None, sampler)
        runner = Runner(contestant, start(3), LENGTHS, 2)
        runner.warm_up()
        one = joined(contestant, [runner.turn(4.0), runner.turn(3.0)])
        assert one.proposals == 3 * 7
        assert 15 < one.accepted <= 21
        assert one.replica_ps == pytest.approx(3 * 7 * 0.016)


def test_heavier_hydrogens_start_as_warm_as_before():
    heavy = heavy_hydrogens(MOLECULE, 3.0)
    state = start(5)
    verlet = VelocityVerlet(Springs(), 0.5, 8.0, 1)
    moved = Contestant(verlet, 1, heavy).start(state)
    assert torch.equal(moved.molecule.masses, heavy.masses)
    torch.testing.assert_close(
        kinetic_energy(heavy, moved.velocities), kinetic_energy(MOLECULE, state.velocities)
    )


class TestRates:
    def test_what_failed_or_is_too_short_has_no_rate(self):
        assert samples(100.0).rate(slowest=False) == 10.0
        assert samples(100.0).rate(slowest=True) == 5.0
        assert samples(15.0).rate(slowest=True) is None
        assert samples(100.0, failed=1).rate(slowest=False) is None

    def test_break_even_counts_training(self):
        # 0.1 s a sample against 0.02 s: 80 s of training are paid back by 1000 samples, and
        # Langevin dynamics has 100 of them in 4 x 100 x 32 fs.
        yardstick = samples(100.0)
        assert break_even(samples(500.0, training=80.0), yardstick) == "128 ps"
        assert break_even(samples(500.0), yardstick) == "at once"
        assert break_even(samples(50.0, training=80.0), yardstick) == "never"
        assert break_even(samples(500.0, training=None), yardstick) is None
        assert break_even(samples(500.0, failed=1), yardstick) is None
        assert break_even(yardstick, yardstick) is None

    def test_a_row_of_alike_dynamics_lends_samples_per_ps_not_costs(self):
        short = replace(samples(100.0), positions=torch.zeros((4, 10, 3, 3)))
        long = samples(80.0, cpu_s=1.0)
        lent = replace(short, lender=long.as_lender("the long row"))
        assert short.rate(slowest=False) == 10.0
        assert lent.per_ps(slowest=False) == long.per_ps(slowest=False)
        assert lent.rate(slowest=False) == pytest.approx(0.8)
        assert lent.relative_error == long.relative_error
        assert lent.counted.name == "the long row"
        assert break_even(samples(500.0, training=80.0), lent) == "10.4 ps"
        # A longer row keeps its own count; one that failed, or whose lender did, has none.
        kept = replace(long, lender=short.as_lender("the short row"))
        assert kept.rate(slowest=False) == long.rate(slowest=False)
        failed = replace(short, failed_fs=samples(5.0, failed=1).failed_fs)
        assert replace(failed, lender=long.as_lender("")).rate(slowest=False) is None
        lost = samples(80.0, failed=1).as_lender("")
        assert replace(short, lender=lost).rate(slowest=False) is None

    def test_openmm_lends_first_and_the_cheap_potential_only_where_alike(self):
        def lender(missed, *rows, reference=None):
            found = {row: samples(80.0) for row in ("langevin-0.5", *rows)}
            lend(found, missed, reference or {})
            lent = found["langevin-0.5"].lender
            names = {f'the row "{ROWS[row][0]}"': row for row in rows}
            return None if lent is None else names.get(lent.name, "reference")

        def weighed(frames):
            counts = torch.tensor([50.0, 30.0, frames, 32.0], dtype=torch.float64)
            return {"cheap_samples": counts, "n_replicas": torch.tensor(48)}

        assert lender(0.01, "openmm-0.5", "cheap-alone") == "openmm-0.5"
        assert lender(0.01, "openmm-4", "cheap-alone") == "cheap-alone"
        assert lender(None, "openmm-0.5", "cheap-alone") == "openmm-0.5"
        assert lender(0.2, "cheap-alone") is None
        assert lender(None, "cheap-alone") is None
        # So does a reweighted reference where it is longer than the row of the same dynamics.
        assert lender(0.01, "cheap-alone", reference=weighed(1000.0)) == "reference"
        assert lender(0.01, "cheap-alone", reference=weighed(10.0)) == "cheap-alone"
        assert lender(0.01, reference=weighed(10.0)) == "reference"
        assert lender(0.2, "cheap-alone", reference=weighed(1000.0)) is None
        assert lender(0.01, "openmm-0.5", reference=weighed(1e9)) == "openmm-0.5"


class TestEnergyRescaling:
    def rescaled(self, shift):
        """Verlet whose last frame has so much less speed, as a network that loses energy."""

        class Losing(VelocityVerlet):
            def advance(self, state, n_frames=None):
                segment = super().advance(state, n_frames)
                return replace(segment, velocities=segment.velocities * (1.0 - shift))

        return EnergyRescaled(Losing(Springs(), 0.5, 8.0, 1), Springs())

    def test_the_total_energy_is_that_of_the_start(self):
        state = start(4)
        made = self.rescaled(0.2)
        total = Springs().energies(state) + kinetic_energy(MOLECULE, state.velocities)
        for _ in range(3):
            state = made.advance(state).last
            now = Springs().energies(state) + kinetic_energy(MOLECULE, state.velocities)
            torch.testing.assert_close(now, total)
        fresh = self.rescaled(0.2)
        fresh.restore(made.restart_state())
        assert torch.equal(fresh.advance(state).velocities, made.advance(state).velocities)

    def test_more_potential_energy_than_there_is_is_not_a_number(self):
        state = start(2)
        made = self.rescaled(0.0)
        made.advance(state)
        far = state.with_(positions=2.0 * state.positions)
        assert bool(made.advance(far).velocities[:, -1].isnan().all())


def test_a_force_field_is_fitted_to_springs():
    # Springs are in the family of what is fitted but for the steepness of its bonds.
    draw = torch.Generator().manual_seed(3)
    made, cpu_s, missed = fit_force_field(Springs(), start(1), draw)
    assert missed < 0.3
    assert cpu_s > 0
    state = start(3).with_(positions=start(3).positions * 1.02)
    found = made.evaluate(state)
    assert torch.equal(found.energy, made.energies(state))
    kept = FittedForceField.from_tensors(made.to_tensors())
    assert torch.equal(kept.energies(state), found.energy)
    x = state.positions.clone()
    x[:, 1, 1] += 1e-5
    slope = (made.energies(state.with_(positions=x)) - found.energy) / 1e-5
    torch.testing.assert_close(-slope, found.forces[:, 1, 1], rtol=1e-3, atol=1e-4)


TINY = ["--n-replicas", "2", "--reference-ps", "0.02", "--cpu-minutes", "0.001"]


def tables(folder):
    return {p.stem: json.loads(p.read_text()) for p in (folder / "acceleration").glob("*.json")}


def test_the_benchmark_from_the_command_line_and_once_more(tmp_path, capsys):
    rows = ["metropolised-32", "rescaled"]
    argv = ["benchmark", "acceleration", "--rows", *rows, *TINY, "--out", str(tmp_path)]
    argv += ["--potentials", "ethanol-escn", "ethanol-escn"]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert "3 rows of 0.001" in said.err
    found = tables(tmp_path)
    assert set(found) == {"acceleration", "acceleration-divergences"}
    speed = found["acceleration"]
    assert [row[0] for row in speed["rows"]] == [ROWS[r][0] for r in ("langevin-0.5", *rows)]
    assert speed["rows"][0][1] is None
    assert speed["rows"][1][1].endswith("%")
    assert speed["rows"][1][8] == "0 of 2"
    assert "Cheap potential: ethanol-escn" in speed["notes"][0]
    turns = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("turns/*")}
    assert len(turns) == 3 * N_TURNS
    # A row whose last turn is missing goes on; the others are taken as they are.
    lost = next(p for p in turns if p.name.startswith("rescaled-3"))
    lost.unlink()
    assert main([*argv, "--resume"]) == 0
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("turns/*")}
    assert {p for p in turns if after[p] != turns[p]} == {lost}
    again = tables(tmp_path)["acceleration"]["rows"]
    assert again[:2] == speed["rows"][:2]


def test_openmm_by_itself_from_the_command_line_and_once_more(tmp_path, capsys):
    argv = ["benchmark", "acceleration", "--rows", *BY_OPENMM, *TINY, "--out", str(tmp_path)]
    argv += ["--bundles", "alanine-dipeptide-egno", "--potentials", *2 * ["openmm:amber14"]]
    # Rows this fast need a reference of more than some frames to be held against.
    argv += ["--reference-ps", "0.2"]
    assert main(argv) == 0
    speed, quality = (tables(tmp_path)[f"acceleration{end}"] for end in ("", "-divergences"))
    names = [ROWS[row][0] for row in ("langevin-0.5", *BY_OPENMM)]
    assert [row[0] for row in speed["rows"]] == [row[0] for row in quality["rows"]] == names
    assert {row[8] for row in speed["rows"]} == {"0 of 2"}
    assert f'OpenMM by itself, effective samples per CPU-second: "{names[1]}"' in speed["notes"][-1]
    # Temperatures by element mean nothing where bonds are fixed.
    assert [row[6] is None for row in quality["rows"]] == [False, False, True]
    next(tmp_path.rglob("turns/openmm-4-3-*")).unlink()
    assert main([*argv, "--resume"]) == 0
    assert tables(tmp_path)["acceleration"]["rows"][:2] == speed["rows"][:2]


class TestRowsOfOpenMM:
    @staticmethod
    def subject(potential):
        bundle = None  # nothing here asks for it
        return Subject("springs", bundle, potential, "springs", start(1))

    def test_without_names_those_that_the_potential_does_not_allow_are_left_out(self):
        assert set(ROWS) - set(rows_for((), self.subject(Springs()))) == set(BY_OPENMM)
        system = openmm.System()
        system.addParticle(1.0)
        theirs = self.subject(OpenMMPotential(system))
        assert rows_for((), theirs) == tuple(ROWS)
        assert rows_for(("openmm-4",), theirs) == ("langevin-0.5", "openmm-4")

    def test_with_a_name_they_are_refused(self):
        with pytest.raises(ValueError, match=r"row 'openmm-0.5' .* given is 'springs'"):
            rows_for(("openmm-0.5",), self.subject(Springs()))
        bench = Bench(self.subject(Springs()), Springs(), None, 300.0, 10.0, 1, LENGTHS, False)
        with pytest.raises(ValueError, match=r"row 'openmm-4' .* given is 'springs'"):
            ROWS["openmm-4"][1](bench, "openmm-4")


@pytest.mark.slow
def test_every_row_runs(tmp_path):
    assert main(["benchmark", "acceleration", *TINY, "--out", str(tmp_path)]) == 0
    found = tables(tmp_path)
    assert "misses" in found["acceleration"]["notes"][0]
    names = [name for row, (name, _) in ROWS.items() if row not in BY_OPENMM]
    for table in found.values():
        assert [row[0] for row in table["rows"]] == names
    quality = {row[0]: row for row in found["acceleration-divergences"]["rows"]}
    assert quality[ROWS["constrained-4"][0]][6] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "langevin"], "allowed are langevin-0.5, langevin-1, constrained-4, openmm-0.5"),
        (["--device", "cuda"], "measured on the cpu only"),
        (["--potentials", "a", "b", "c"], "one true and one cheap potential"),
        (["--potentials", "nowhere-escn"], "nowhere-escn"),
        (
            ["--rows", "openmm-4", "--potentials", "ethanol-escn"],
            "row 'openmm-4' is integrated by OpenMM and needs a true potential of OpenMM, such as "
            "--potentials openmm:amber14; given is 'ethanol-escn'",
        ),
    ],
)
def test_wrong_options_are_named(tmp_path, capsys, options, message):
    assert main(["benchmark", "acceleration", *options, "--out", str(tmp_path)]) != 0
    assert message in capsys.readouterr().err
