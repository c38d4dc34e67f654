from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.filters import UnitCellFilter
from ase.io import Trajectory
from ase.md import VelocityVerlet, thermalize_momenta
from ase.md.velocitydistribution import Stationary

from egno_md.calculators.escn_calculator import ESCNCalculator
from egno_md.calculators.potential_calculator import PotentialCalculator
from egno_md.calculators.segment_dynamics import SegmentDynamics
from egno_md.propagators.classical import VelocityVerlet as Verlet
from egno_md.roles import EnergyForces
from tests.calculators.tethered_atoms import BATHS, Oscillators, Tethers, driver, exact, some_atoms

EXAMPLES = Path(__file__).resolve().parents[2] / "egno_md" / "examples"


def same(a: Atoms, b: Atoms) -> bool:
    return np.array_equal(a.positions, b.positions) and np.array_equal(
        a.get_momenta(), b.get_momenta()
    )


def test_frames_are_those_of_the_segments_at_their_times() -> None:
    start = some_atoms()
    atoms, seen = start.copy(), []
    with driver(atoms) as dyn:
        dyn.attach(
            lambda: seen.append(
                (dyn.nsteps, dyn.get_time() / units.fs, atoms.positions.copy(), dyn.made_by)
            ),
            interval=3,
        )
        assert dyn.run(14) is True
        assert dyn.propagator.calls == 3
        assert dyn.dt == pytest.approx(2.0 * units.fs)
    assert [n for n, *_ in seen] == [0, 3, 6, 9, 12]
    assert [who for *_, who in seen] == ["given"] + ["network"] * 4
    for n, time_fs, x, _ in seen:
        assert time_fs == pytest.approx(2.0 * n, abs=1e-9)
        np.testing.assert_allclose(x, exact(start, 2.0 * n)[0], rtol=0, atol=1e-13)
    x, v = exact(start, 28.0)
    np.testing.assert_allclose(atoms.get_velocities(), v, rtol=1e-12, atol=1e-14)
    assert np.abs(x - start.positions).max() > 0.05


@pytest.mark.parametrize("bath", BATHS, ids=lambda b: b.get("thermostat", "") or str(len(b)))
def test_runs_may_be_cut_anywhere(bath) -> None:
    ends = []
    for pieces in ([27], [20, 7], [1] * 3 + [24]):
        atoms = some_atoms(4)
        dyn = driver(atoms, **bath)
        for piece in pieces:
            dyn.run(piece)
        ends.append(atoms)
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])
    stepped = some_atoms(4)
    assert sum(1 for _ in driver(stepped, **bath).irun(27)) == 28
    assert same(ends[0], stepped)
    other = some_atoms(4)
    driver(other, seed=1, **bath).run(27)
    assert same(ends[0], other) is (not bath)


def test_nothing_is_computed_where_nobody_looks() -> None:
    atoms = some_atoms()
    atoms.calc = PotentialCalculator(Tethers())
    dyn = driver(atoms, record_forces=False)
    energies: list[float] = []
    dyn.attach(lambda: energies.append(atoms.get_potential_energy()), interval=10)
    dyn.attach(lambda: energies.append(atoms.get_potential_energy()), interval=-7)
    dyn.run(30)
    assert len(energies) == 5
    assert atoms.calc.potential.calls == 0


def test_other_writers_see_momenta_and_energies(tmp_path) -> None:
    start = some_atoms()
    atoms = start.copy()
    atoms.calc = PotentialCalculator(Tethers())
    dyn = driver(atoms)
    dyn.attach(lambda: ase.io.write(tmp_path / "a.extxyz", atoms, append=True), interval=2)
    dyn.run(8)
    frames = ase.io.read(tmp_path / "a.extxyz", ":")
    assert len(frames) == 5
    for k, frame in enumerate(frames):
        x, v = exact(start, 4.0 * k)
        np.testing.assert_allclose(frame.positions, x, rtol=0, atol=1e-7)
        np.testing.assert_allclose(frame.get_velocities(), v, rtol=0, atol=1e-7)
    assert np.ptp([frame.get_total_energy() for frame in frames]) < 1e-6


def test_a_logger_without_a_calculator_says_so(tmp_path) -> None:
    with driver(some_atoms(), logfile=str(tmp_path / "a.log")) as dyn:
        dyn.run(2)
    rows = [line.split() for line in (tmp_path / "a.log").read_text().splitlines()[1:]]
    assert [row[2] for row in rows] == ["nan"] * 3
    assert all(float(row[3]) > 0 for row in rows)


def test_it_is_the_path_of_velocity_verlet() -> None:
    start = some_atoms()
    ours, theirs = start.copy(), start.copy()
    theirs.calc = PotentialCalculator(Tethers())
    driver(ours, Verlet(Tethers(), 0.25, 2.0, 4)).run(10)
    with VelocityVerlet(theirs, 0.25 * units.fs) as dyn:
        dyn.run(80)
    np.testing.assert_allclose(ours.positions, theirs.positions, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.get_momenta(), theirs.get_momenta(), rtol=0, atol=1e-6)


def test_a_guard_makes_bad_frames_again_and_gives_the_energies(tmp_path) -> None:
    start = some_atoms()
    atoms, fast, potential = start.copy(), Oscillators(4, 2.0), Tethers()

    def damage(segment):
        if fast.calls == 2:
            segment.positions[:, 2:] += 0.5

    fast.damage = damage
    log = tmp_path / "a.log"
    with driver(
        atoms, fast, guard=potential, energy_limit_eV=0.01, fallback_timestep_fs=0.1, logfile=log
    ) as dyn:
        makers: list[str] = []
        dyn.attach(lambda: makers.append(dyn.made_by))
        dyn.run(12)
    assert makers == ["given"] + ["network"] * 6 + ["integrator"] * 2 + ["network"] * 4
    (event,) = dyn.events
    assert event.judge == "energy error"
    assert event.time_fs == pytest.approx(14.0)
    assert dyn.statistics().frames_by == {"GIVEN": 0, "NETWORK": 10, "INTEGRATOR": 2}
    np.testing.assert_allclose(atoms.positions, exact(start, 24.0)[0], rtol=0, atol=2e-4)
    totals = [float(line.split()[1]) for line in log.read_text().splitlines()[1:]]
    assert np.ptp(totals) < 1e-3
    assert atoms.calc.potential is potential
    assert driver(some_atoms()).statistics() is None


@pytest.mark.parametrize(("asked", "caught"), [("auto", 1), ("all", 1), ("last", 0)])
def test_a_bad_frame_before_a_good_end_is_seen_where_every_frame_is_asked_for(asked, caught):
    fast = Oscillators(4, 2.0)
    fast.damage = lambda segment: segment.positions[:, 1].add_(0.5)
    options = {"energy_limit_eV": 0.01, "energy_frames": asked, "fallback_timestep_fs": 0.1}
    with driver(some_atoms(), fast, guard=Tethers(), **options) as dyn:
        dyn.run(4)
    assert [event.n_accepted for event in dyn.events] == [1] * caught


def test_a_fallback_of_ones_own_and_a_calculator_that_stays() -> None:
    atoms, fast = some_atoms(), Oscillators(4, 2.0)
    fast.damage = lambda segment: segment.positions.add_(1.0)
    atoms.calc = own = PotentialCalculator(Tethers())
    safe = Oscillators(4, 2.0)
    dyn = driver(atoms, fast, guard=PotentialCalculator(Tethers()), fallback=safe)
    dyn.run(4)
    assert safe.calls == 1
    assert atoms.calc is own


def test_whoever_moves_atoms_starts_a_new_segment() -> None:
    atoms = some_atoms()
    dyn = driver(atoms)
    dyn.run(2)
    assert dyn.propagator.calls == 1
    atoms.positions[0] += 0.1
    moved = atoms.copy()
    dyn.run(1)
    assert dyn.propagator.calls == 2
    np.testing.assert_allclose(atoms.positions, exact(moved, 2.0)[0], rtol=0, atol=1e-13)
    atoms.set_momenta(2 * atoms.get_momenta())
    pushed = atoms.copy()
    dyn.run(5)
    assert dyn.propagator.calls == 3
    np.testing.assert_allclose(atoms.positions, exact(pushed, 10.0)[0], rtol=0, atol=1e-13)
    dyn.run(1)
    assert dyn.propagator.calls == 4
    assert dyn.nsteps == 9


@pytest.mark.parametrize("what", ["numbers", "masses", "pbc", "constraint"])
def test_other_atoms_under_way_are_refused(what) -> None:
    atoms = some_atoms()
    dyn = driver(atoms)
    dyn.run(5)
    before = atoms.positions.copy()
    if what == "numbers":
        atoms.numbers[0] = 8
    elif what == "masses":
        atoms.set_masses([12.0, 2.0, 12.0])
    elif what == "pbc":
        atoms.set_cell([9, 9, 9])
        atoms.set_pbc(True)
    else:
        atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="make a new SegmentDynamics"):
        dyn.run(1)
    np.testing.assert_array_equal(atoms.positions, before)


def test_a_frame_that_is_not_finite_is_never_given_out() -> None:
    atoms, propagator = some_atoms(), Oscillators()

    def damage(segment):
        segment.positions[:, 3:] = float("nan")

    propagator.damage = damage
    dyn = driver(atoms, propagator)
    with pytest.raises(ValueError, match=r"frame 4 \(8 fs\) is not finite"):
        dyn.run(10)
    assert dyn.nsteps == 3
    assert np.isfinite(atoms.positions).all()


def test_what_cannot_be_moved_is_refused() -> None:
    charged, overlapping, heavy = some_atoms(), some_atoms(), some_atoms()
    charged.info["charge"] = 1
    overlapping.positions[0, 1] = np.nan
    heavy.set_masses([1.0, 0.0, 1.0])
    for atoms, message in (
        (charged, "total charge of 1"),
        (overlapping, "position of atom 0 .* is nan"),
        (heavy, "atom 1 has mass 0.0"),
        (UnitCellFilter(bulk("Cu")), "moves ase.Atoms, got UnitCellFilter"),
    ):
        with pytest.raises(ValueError, match=message):
            SegmentDynamics(atoms, Oscillators())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thermostat": "bussi"}, "'bussi' needs temperature_K"),
        ({"coupling_per_ps": 5.0}, "coupling_per_ps = 5 needs temperature_K"),
        ({"thermostat": "nose", "temperature_K": 300.0}, "'langevin', 'bussi' and 'andersen'"),
        ({"temperature_K": -1.0}, "temperature_K is -1.0"),
        ({"temperature_K": 300.0, "coupling_per_ps": float("nan")}, "is nan"),
        ({"horizon_fs": 8.0}, "horizon_fs = 8.0 goes with a bundle"),
        ({"dtype": "float64"}, "dtype = 'float64' goes with a bundle"),
        ({"fallback": Oscillators()}, "give guard="),
        ({"guard": Tethers(), "energy_limit_eV": 0.0}, "limit_eV is 0.0"),
        ({"guard": Tethers(), "fallback_timestep_fs": 0.0}, "fallback_timestep_fs is 0.0"),
        ({"guard": 3}, "a calculator, a potential or the name of a bundle is needed, got int"),
        ({"n_threads": 0}, "n_threads is 0"),
    ],
)
def test_options_are_checked(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        driver(some_atoms(), **options)


def test_propagators_are_checked() -> None:
    with pytest.raises(FileNotFoundError, match="no-such"):
        driver(some_atoms(), "no-such")
    with pytest.raises(ValueError, match="got float"):
        driver(some_atoms(), 3.0)
    with pytest.raises(ValueError, match="Cu, which bundle 'ethanol-egno' was not trained on"):
        driver(Atoms("Cu2", positions=[[0, 0, 0], [2.5, 0, 0]]), "ethanol-egno")


def test_rescaling_wants_velocities() -> None:
    atoms = some_atoms()
    atoms.set_momenta(np.zeros((3, 3)))
    dyn = driver(atoms, temperature_K=300.0, thermostat="bussi")
    with pytest.raises(ValueError, match="rescaling needs velocities"):
        dyn.run(1)


def test_the_packaged_bundles_by_name(tmp_path) -> None:
    atoms = ase.io.read(EXAMPLES / "ethanol.xyz")
    thermalize_momenta(atoms, 300.0, rng=np.random.default_rng(1))
    Stationary(atoms)
    guard = ESCNCalculator("ethanol-escn", n_threads=1)
    trajectory = str(tmp_path / "a.traj")
    with SegmentDynamics(
        atoms, "ethanol-egno", guard=guard, trajectory=trajectory, loginterval=4
    ) as dyn:
        dyn.run(12)
    assert dyn.statistics().frames_by["NETWORK"] == 12
    with Trajectory(trajectory) as frames:
        totals = [frame.get_total_energy() for frame in frames]
        moved = np.abs(frames[-1].positions - frames[0].positions).max()
    assert len(totals) == 4
    assert np.ptp(totals) < 0.05
    assert moved > 0.2
    longer = SegmentDynamics(atoms, "ethanol-egno", horizon_fs=48.0, dtype="float64")
    assert longer.propagator.n_frames == 16


def test_a_crystal_moves_in_its_cell() -> None:
    atoms = ase.io.read(EXAMPLES / "copper.xyz")
    thermalize_momenta(atoms, 300.0, rng=np.random.default_rng(1))
    Stationary(atoms)
    cell = atoms.cell.array.copy()
    dyn = SegmentDynamics(atoms, "copper-egno")
    dyn.run(2)
    assert dyn.degrees_of_freedom == 3 * len(atoms) - 3
    np.testing.assert_array_equal(atoms.cell.array, cell)
    assert np.isfinite(atoms.positions).all()


def test_a_potential_that_refuses_is_heard_with_the_time() -> None:
    class Refusing(Tethers):
        def energies(self, state):
            if state.time_fs > 15.0:
                raise ValueError("too far out")
            return super().energies(state)

        def evaluate(self, state):
            return EnergyForces(self.energies(state), -state.positions)

    dyn = driver(some_atoms(), Oscillators(4, 2.0), guard=Refusing())
    with pytest.raises(ValueError, match=r"the safe propagator failed too.*too far out"):
        dyn.run(20)
    assert dyn.nsteps == 4


def test_a_quick_copy_named_as_guard_is_taken_with_a_warning() -> None:
    atoms = ase.io.read("egno_md/examples/ethanol.xyz")
    with pytest.warns(UserWarning, match=r"the guard, 'ethanol-distance', is a quick copy") as seen:
        dyn = SegmentDynamics(atoms, "ethanol-egno", guard="ethanol-distance")
    assert seen[0].filename == __file__
    dyn.run(5)
    assert dyn.statistics().segments == 1
    with pytest.raises(ValueError, match="'ethanol-egno' is of kind 'egno'"):
        SegmentDynamics(atoms, "ethanol-egno", guard="ethanol-egno")
