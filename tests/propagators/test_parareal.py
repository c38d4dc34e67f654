from __future__ import annotations

import functools
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import pytest
import torch

from egno_md.data.structures import read_structure
from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.escn_potential import ESCNPotential
from egno_md.propagators.fine_slabs import FineSlabs, solve_task, verlet_with
from egno_md.propagators.parareal import Parareal
from egno_md.propagators.parareal_report import PararealReport, parallel_time
from egno_md.propagators.thermostat import Thermostatted
from egno_md.roles import EnergyForces, Propagator
from egno_md.segment import MadeBy
from egno_md.state import Molecule, State, maxwell_boltzmann


class Chain:
    """Five atoms on stiff, anharmonic springs: what is done to one is felt by all."""

    def __init__(self, error=0.0):
        self.stiffness = 20.0 * (1 + error)

    def _bonds(self, state):
        arrows = state.positions[:, 1:] - state.positions[:, :-1]
        lengths = arrows.norm(dim=-1, keepdim=True)
        return arrows / lengths, lengths - 1.2

    def evaluate(self, state):
        along, stretch = self._bonds(state)
        pull = (self.stiffness * stretch - 30.0 * stretch**2) * along
        nothing = torch.zeros_like(pull[:, :1])
        forces = torch.cat([pull, nothing], 1) - torch.cat([nothing, pull], 1)
        return EnergyForces(self.energies(state), forces)

    def energies(self, state):
        stretch = self._bonds(state)[1][..., 0].double()
        return (0.5 * self.stiffness * stretch**2 - 10.0 * stretch**3).sum(1)


def verlet(error=0.0, step_fs=0.5, interval_fs=4.0):
    return VelocityVerlet(Chain(error), step_fs, interval_fs, 8)


def chains(n=2, kelvin=300.0):
    molecule = Molecule.from_numbers([6, 6, 8, 6, 1], bonds=[(i, i + 1) for i in range(4)])
    generator = torch.Generator().manual_seed(8)
    x = torch.zeros((n, 5, 3), dtype=torch.float64)
    x[..., 0] = 1.2 * torch.arange(5)
    x += 0.03 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return State(molecule, x, maxwell_boltzmann(molecule, n, kelvin, generator), time_fs=7.0)


def error_of(segment, serial):
    return float((segment.positions - serial.positions).abs().max())


def test_it_is_a_propagator_on_the_grid_of_the_trusted_one() -> None:
    parareal = Parareal(verlet(0.01), verlet(), n_slabs=6, frames_per_slab=2)
    assert isinstance(parareal, Propagator)
    assert parareal.n_frames == 12
    assert parareal.frame_interval_fs == 4.0
    segment = parareal.advance(chains(), 5)
    serial = verlet().advance(chains(), 5)
    assert torch.equal(segment.times_fs, serial.times_fs)
    assert bool((segment.made_by == int(MadeBy.INTEGRATOR)).all())
    assert parareal.report.windows[0].n_slabs == 3


def test_after_k_rounds_the_first_k_slabs_are_the_serial_ones_bit_for_bit() -> None:
    serial = verlet().advance(chains(), 12)
    parareal = Parareal(verlet(0.05), verlet(), n_slabs=6, frames_per_slab=2, tolerance_A=1e-30)
    window = parareal._guess(chains(), [2] * 6)
    for k in range(1, 7):
        parareal._solve(window)
        parareal._correct(window)
        for n, slab in enumerate(window.slabs):
            exact = torch.equal(slab.frames.x, serial.positions[:, 2 * n : 2 * n + 2])
            assert exact == (n < k)
            if exact:
                assert torch.equal(slab.frames.v, serial.velocities[:, 2 * n : 2 * n + 2])
    assert window.fine_solves == 6 + 5 + 4 + 3 + 2 + 1


def test_as_many_rounds_as_slabs_give_the_serial_trajectory(assert_same) -> None:
    serial = verlet().advance(chains(), 6)
    parareal = Parareal(verlet(0.02), verlet(), n_slabs=3, frames_per_slab=2, tolerance_A=1e-30)
    assert_same(parareal.advance(chains()), serial)
    assert parareal.report.windows[0].iterations == 3


@pytest.mark.parametrize("tolerance_A", [1e-3, 1e-5, 1e-7])
def test_tolerance_is_kept_against_the_serial_trajectory(tolerance_A) -> None:
    serial = verlet().advance(chains(), 32)
    parareal = Parareal(
        verlet(0.01), verlet(), n_slabs=16, frames_per_slab=2, tolerance_A=tolerance_A
    )
    segment = parareal.advance(chains())
    (window,) = parareal.report.windows
    assert window.changes_A[-1] <= tolerance_A < window.changes_A[-2]
    assert window.iterations < 10
    assert 0 < error_of(segment, serial) < tolerance_A
    found = segment.potential_energies
    torch.testing.assert_close(found, serial.potential_energies, rtol=0, atol=3 * tolerance_A)


def test_a_good_coarse_propagator_takes_two_to_four_rounds() -> None:
    for coarse in (verlet(0.002), verlet(step_fs=1.0)):
        parareal = Parareal(coarse, verlet(), n_slabs=16, frames_per_slab=2)
        segment = parareal.advance(chains())
        (window,) = parareal.report.windows
        assert 2 <= window.iterations <= 4
        assert error_of(segment, verlet().advance(chains(), 32)) < 1e-4
        assert parareal.report.slabs == 16
        report = parareal.report
        f, g = report.fine_slab_cpu_s, report.coarse_slab_cpu_s
        serial, together = 16 * f, parallel_time(16, window.iterations, 5, f, g)
        assert report.projected(5) == pytest.approx(serial / together)
        assert report.work_ratio > 1
        assert "16 slabs in 1 windows" in report.text()


def test_slabs_run_together_give_the_same_to_rounding() -> None:
    settings = {"n_slabs": 8, "frames_per_slab": 2, "tolerance_A": 1e-6}
    one = Parareal(verlet(0.01), verlet(), **settings).advance(chains())
    many = Parareal(verlet(0.01), verlet(), **settings, slabs_at_once=8)
    segment = many.advance(chains())
    torch.testing.assert_close(segment.positions, one.positions, rtol=0, atol=1e-12)
    # The first slab ran alone: it has the serial bits, and says what a slab costs.
    assert torch.equal(segment.positions[:, :2], one.positions[:, :2])
    assert len(many.report.alone_cpu_s) == 1


@pytest.mark.parametrize("error", [0.5, 3.0])
def test_a_poor_coarse_propagator_is_refused_and_the_result_still_right(error) -> None:
    serial = verlet().advance(chains(), 80)
    parareal = Parareal(verlet(error), verlet(), n_slabs=16, frames_per_slab=5)
    with pytest.warns(RuntimeWarning, match="too poor for parareal here: .*alone"):
        segment = parareal.advance(chains())
    assert error_of(segment, serial) < 2e-4
    assert parareal.report.refusals == 1
    assert 0 < parareal.report.serial_slabs < 16
    assert [event.replica for event in segment.events] == [0, 1]
    assert segment.events[0].judge == "parareal"
    assert segment.events[0].n_accepted == 5 * (16 - parareal.report.serial_slabs)
    assert "slab" in segment.events[0].reason
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        parareal.advance(segment.last)
    assert parareal.report.refusals == 2


@pytest.mark.parametrize("fails_in", [1, 4])
def test_a_coarse_propagator_that_gives_up_is_survived(damaged, fails_in, assert_same) -> None:
    calls = []

    def fail(segment):
        calls.append(segment)
        if len(calls) >= fails_in:
            segment.positions[0, 0, 0, 0] = torch.nan

    parareal = Parareal(damaged(verlet(0.01), fail), verlet(), n_slabs=6, tolerance_A=1e-30)
    with pytest.warns(RuntimeWarning, match="the coarse propagator failed in slab"):
        segment = parareal.advance(chains())
    serial = verlet().advance(chains(), 6)
    assert torch.equal(segment.positions, serial.positions)


def test_an_intermediate_start_that_the_trusted_one_gives_up_cuts_the_window() -> None:
    class Narrow(Chain):
        """Refuses strained chains, as the wrong guess makes them."""

        def evaluate(self, state):
            if float(self._bonds(state)[1].abs().max()) > 0.25:
                raise ValueError("strained")
            return super().evaluate(state)

    def trusted():
        return VelocityVerlet(Narrow(), 0.5, 4.0, 1)

    serial = trusted().advance(chains(), 16)
    for together in (1, 4):
        parareal = Parareal(
            verlet(-0.6), trusted(), n_slabs=8, frames_per_slab=2, slabs_at_once=together
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            segment = parareal.advance(chains())
        assert error_of(segment, serial) < 1e-4
        assert any("failed in slab" in window.reason for window in parareal.report.windows)

    class Never(Chain):
        def evaluate(self, state):
            raise ValueError("never")

    parareal = Parareal(verlet(), VelocityVerlet(Never(), 0.5, 4.0, 1))
    with pytest.raises(ValueError, match=r"slab from 7 fs on: .*never"):
        parareal.advance(chains())


def test_windows_shrink_where_they_must_and_grow_again() -> None:
    parareal = Parareal(verlet(0.01), verlet(), n_slabs=16, frames_per_slab=2)
    parareal.restore({"window": torch.tensor(4)})
    segment = parareal.advance(chains())
    sizes = [window.n_slabs for window in parareal.report.windows]
    assert sizes[0] == 4
    assert sum(sizes) == 16
    assert error_of(segment, verlet().advance(chains(), 32)) < 2e-4
    with pytest.raises(ValueError, match="window of 17 slabs; 1 to 16"):
        parareal.restore({"window": torch.tensor(17)})
    with pytest.raises(ValueError, match="window of 0 slabs"):
        parareal.restore({})


def test_a_restarted_run_is_the_uninterrupted_one_bit_for_bit(assert_same) -> None:
    going, fresh = (Parareal(verlet(0.3), verlet(), n_slabs=8, frames_per_slab=3) for _ in "ab")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        middle = going.advance(chains()).last
        saved = going.restart_state()
        assert int(saved["window"]) < 8
        expected = going.advance(middle)
        fresh.restore(saved)
        before = Parareal(verlet(0.3), verlet(), n_slabs=8, frames_per_slab=3)
        before.restore(saved)
        assert_same(fresh.advance(middle), expected)
        old = Parareal(verlet(0.3), verlet(), n_slabs=8, frames_per_slab=3)
        old.restore({"window": saved["window"]})  # an earlier version kept no report
        assert_same(old.advance(middle), expected)
    for name in ("slabs", "serial_slabs", "iterations", "fine_solves", "coarse_solves", "refusals"):
        assert getattr(fresh.report, name) == getattr(going.report, name), name
    assert fresh.report.windows == going.report.windows
    assert 0 < old.report.slabs < going.report.slabs
    assert 0 < before.report.wall_s < fresh.report.wall_s
    assert before.report == PararealReport.from_tensors(before.report.to_tensors())


def test_the_time_to_compile_is_not_taken_for_that_of_slabs(assert_same) -> None:
    class Compiles:
        frame_interval_fs, n_frames, reversible, volume_preserving = 4.0, 8, True, True
        restart_state = staticmethod(dict)
        calls = 0

        def advance(self, state, n_frames=None):
            self.calls += 1
            if self.calls == 1:
                time.sleep(1.5)
            return verlet(0.01).advance(state, n_frames)

    slow = Parareal(Compiles(), verlet(), n_slabs=6)
    quick = Parareal(verlet(0.01), verlet(), n_slabs=6)
    assert_same(slow.advance(chains()), quick.advance(chains()))
    report = slow.report
    assert report.wall_s < 1.5 <= report.start_s
    assert report.coarse_cpu_s < report.wall_s
    assert " after a start of " in report.text()
    assert " after a start of " not in quick.report.text()
    assert report.coarse_solves == quick.report.coarse_solves
    kept = report.to_tensors()
    assert PararealReport.from_tensors(kept).start_s == report.start_s
    del kept["start_s"]  # an earlier version did not keep it
    assert PararealReport.from_tensors(kept).start_s == 0.0


def test_a_bath_goes_around_it() -> None:
    def bathed(propagator):
        return Thermostatted(propagator, 300.0, 5.0, torch.Generator().manual_seed(2))

    mine = bathed(Parareal(verlet(0.01), verlet(), n_slabs=4, frames_per_slab=2, tolerance_A=1e-9))
    plain, state = bathed(verlet()), chains()
    for _ in range(3):
        segment, expected = mine.advance(state, 8), plain.advance(state, 8)
        assert error_of(segment, expected) < 1e-9
        state = expected.last
    generator = torch.Generator()
    langevin = Langevin(Chain(), 0.5, 4.0, 1, 300.0, 1.0, generator)
    with pytest.raises(ValueError, match=r"trusted propagator \(Langevin\) draws random numbers"):
        Parareal(verlet(), langevin)
    with pytest.raises(ValueError, match=r"coarse propagator \(Thermostatted\) draws"):
        Parareal(bathed(verlet()), verlet())


@pytest.mark.parametrize("only_map", [False, True])
def test_an_executor_gives_the_same_bits(only_map, assert_same) -> None:
    class OnlyMap:
        def __init__(self, pool):
            self.map = pool.map

    settings = {"n_slabs": 6, "frames_per_slab": 2, "tolerance_A": 1e-6}
    here = Parareal(verlet(0.01), verlet(), **settings).advance(chains())
    with ThreadPoolExecutor(1) as pool:
        executor = OnlyMap(pool) if only_map else pool
        parareal = Parareal(verlet(0.01), verlet, **settings, executor=executor)
        assert_same(parareal.advance(chains()), here)
        assert parareal.report.remote_cpu_s == parareal.report.fine_cpu_s > 0


def test_a_dask_cluster_gives_the_same_bits(assert_same) -> None:
    """Threads of this process stand for its workers."""
    distributed = pytest.importorskip("distributed")
    settings = {"n_slabs": 6, "frames_per_slab": 2, "tolerance_A": 1e-6}
    here = Parareal(verlet(0.01), verlet(), **settings)
    expected, after = here.advance(chains()), here.advance(chains(1), 6)
    quiet = {"dashboard_address": None, "silence_logs": False}
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=False, **quiet
        ) as all_,
        distributed.Client(all_) as client,
    ):
        parareal = Parareal(verlet(0.01), verlet, **settings, executor=client)
        assert_same(parareal.advance(chains()), expected)
        assert_same(parareal.advance(chains(1), 6), after)
        together = Parareal(verlet(0.01), verlet, **settings, executor=client, slabs_at_once=3)
        assert error_of(together.advance(chains()), expected) < 1e-12
    assert parareal.report.fine_cpu_s > 0
    assert parareal.report.iterations == here.report.iterations


def test_threads_of_a_worker_do_not_share_a_propagator() -> None:
    """Two recipes take turns, and two tasks of one recipe are in `advance` at the same time."""
    together, seen = threading.Barrier(2), []

    class Watched(VelocityVerlet):
        def advance(self, state, n_frames=None):
            together.wait(timeout=20)
            seen.append(self)
            return super().advance(state, n_frames)

    def recipe(step_fs):
        return Watched(Chain(), step_fs, 4.0, 1)

    steps = [0.5, 0.2]
    expected = [verlet(step_fs=step).advance(chains(), 2).positions for step in steps]
    recipes = [functools.partial(recipe, step) for step in steps]
    with ThreadPoolExecutor(2) as pool:
        slabs = [FineSlabs(one, executor=pool) for one in recipes]
        tasks = [slabs[k // 2 % 2]._task(chains(), 2) for k in range(12)]
        for k, (x, *_) in enumerate(pool.map(solve_task, tasks)):
            assert torch.equal(torch.from_numpy(x), expected[k // 2 % 2])
    assert all(one is not other for one, other in zip(seen[::2], seen[1::2], strict=True))


def test_two_processes_give_the_bits_of_one(assert_same) -> None:
    opened = functools.partial(ESCNPotential.from_bundle, "ethanol-escn", dtype=torch.float64)
    recipe = functools.partial(verlet_with, opened, 0.5, 1.0)
    ethanol = read_structure(str(files("egno_md") / "examples" / "ethanol.xyz"))
    generator = torch.Generator().manual_seed(1)
    v = maxwell_boltzmann(ethanol.molecule, 1, 300.0, generator)
    state = State(ethanol.molecule, ethanol.positions.double(), v)
    coarse = VelocityVerlet(opened(), 1.0, 1.0, 1)
    settings = {"n_slabs": 3, "tolerance_A": 1e-30}
    here = Parareal(coarse, recipe(), **settings).advance(state)
    with Parareal(coarse, recipe, **settings, n_workers=2) as parareal:
        assert_same(parareal.advance(state), here)
    assert parareal.report.fine_cpu_s > 0


@pytest.mark.slow
def test_a_recipe_that_cannot_be_sent_is_named() -> None:
    with (
        Parareal(verlet(0.01), lambda: verlet(), n_slabs=1, n_workers=2) as local,
        pytest.raises(RuntimeError, match="recipe must be importable by name"),
    ):
        local.advance(chains())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_slabs": 0}, "n_slabs is 0"),
        ({"frames_per_slab": 0}, "frames_per_slab is 0"),
        ({"tolerance_A": 0.0}, "tolerance_A is 0.0"),
        ({"tolerance_A": float("nan")}, "tolerance_A is nan"),
        ({"n_workers": 0}, "n_workers is 0"),
        ({"slabs_at_once": 0}, "slabs_at_once is 0"),
        ({"n_workers": 2}, "give a function that makes it"),
        ({"executor": object()}, "give a function that makes it"),
        ({"coarse": "ethanol-egno"}, "coarse is the name 'ethanol-egno', which is no propagator"),
        ({"fine": "ethanol-escn"}, "fine is the name 'ethanol-escn', which is no propagator"),
        ({"coarse": verlet(interval_fs=2.0)}, "frame every 2.0 fs and the trusted one every 4.0"),
    ],
)
def test_what_cannot_be_is_refused(change, said) -> None:
    with pytest.raises(ValueError, match=said):
        Parareal(**({"coarse": verlet(0.01), "fine": verlet()} | change))
    with pytest.raises(ValueError, match="n_frames is 0"):
        Parareal(verlet(0.01), verlet()).advance(chains(), 0)
    with pytest.raises(ValueError, match="object, which has neither submit nor map"):
        FineSlabs(verlet, executor=object())
