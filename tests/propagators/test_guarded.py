from __future__ import annotations

import math

import pytest
import torch

from egno_md.propagators.classical import Langevin, VelocityVerlet
from egno_md.propagators.energy_judge import EnergyJudge
from egno_md.propagators.guarded import GuardedPropagator, finite_frames, leading
from egno_md.propagators.thermostat import Thermostatted
from egno_md.roles import Propagator, Verdict
from egno_md.segment import MadeBy

NETWORK, INTEGRATOR = int(MadeBy.NETWORK), int(MadeBy.INTEGRATOR)


class SaysSo:
    """A judge that accepts the counts it was given, and remembers how many frames it saw."""

    def __init__(self, name, counts, energies=None):
        self.name, self.counts, self.energies, self.seen = name, counts, energies, []
        self.memory = torch.zeros(1)

    def judge(self, start, segment):
        self.seen.append(segment.n_frames)
        self.memory = self.memory + 1
        accepted = torch.tensor(self.counts).clamp(max=segment.n_frames)
        reasons = tuple(None if k >= segment.n_frames else f"{self.name} {k}" for k in self.counts)
        energies = None if self.energies is None else self.energies[:, : segment.n_frames]
        return Verdict(accepted, reasons, energies)

    def restart_state(self):
        return {"memory": self.memory}

    def restore(self, saved):
        self.memory = saved["memory"]


class LongBond:
    """Accepts frames in which the two atoms are less than 2 Å apart."""

    name = "length"

    def judge(self, start, segment):
        length = (segment.positions[:, :, 0] - segment.positions[:, :, 1]).norm(dim=-1)
        counts = leading(length < 2.0)
        return Verdict(counts, tuple("too long" if k < segment.n_frames else None for k in counts))

    def restart_state(self):
        return {}

    def restore(self, saved):
        pass


@pytest.fixture
def verlet(dimer_potential):
    return lambda: VelocityVerlet(dimer_potential, 0.5, 1.0, 6)


def stretch(replica, frame):
    def damage(segment):
        segment.positions[replica, frame:, 1, 0] += 5.0

    return damage


def test_good_segments_pass_untouched(verlet, damaged, dimers) -> None:
    guard = GuardedPropagator(damaged(verlet()), verlet(), [LongBond()])
    assert isinstance(guard, Propagator)
    assert not guard.reversible
    assert not guard.volume_preserving
    assert (guard.frame_interval_fs, guard.n_frames) == (1.0, 6)
    segment = guard.advance(dimers)
    assert bool((segment.made_by == NETWORK).all())
    assert torch.equal(segment.positions, verlet().advance(dimers).positions)
    assert segment.events == ()
    assert bool(segment.potential_energies.isnan().all())


def test_a_stretched_bond_is_cut_and_continued_as_if_nothing_had_happened(
    verlet, damaged, dimers
) -> None:
    # The fast propagator is the safe one but for the damage, so the repaired segment must be
    # the undamaged trajectory, bit for bit.
    guard = GuardedPropagator(damaged(verlet(), stretch(2, 4)), verlet(), [LongBond()])
    segment = guard.advance(dimers)
    expected = verlet().advance(dimers)
    assert torch.equal(segment.positions, expected.positions)
    assert torch.equal(segment.velocities, expected.velocities)
    assert torch.equal(segment.times_fs, expected.times_fs)
    assert segment.made_by[2].tolist() == [NETWORK] * 4 + [INTEGRATOR] * 2
    assert bool((segment.made_by[[0, 1, 3]] == NETWORK).all())
    assert torch.equal(segment.potential_energies[2, 4:], expected.potential_energies[2, 4:])
    assert bool(segment.potential_energies[2, :4].isnan().all())
    (event,) = segment.events
    assert (event.judge, event.reason, event.replica) == ("length", "too long", 2)
    assert (event.n_accepted, event.n_frames, event.time_fs) == (4, 6, 5.0)


def test_replicas_cut_at_different_frames_are_continued_each_from_its_own(
    verlet, damaged, dimers
) -> None:
    judge = SaysSo("odd", [6, 0, 2, 2])
    guard = GuardedPropagator(damaged(verlet()), verlet(), [judge])
    segment = guard.advance(dimers)
    expected = verlet().advance(dimers)
    torch.testing.assert_close(segment.positions, expected.positions, rtol=0, atol=0)
    made = (segment.made_by == NETWORK).sum(1).tolist()
    assert made == [6, 0, 2, 2]
    assert [e.replica for e in segment.events] == [1, 2, 3]
    assert [e.time_fs for e in segment.events] == [1.0, 3.0, 3.0]


def test_the_safe_propagator_gets_all_that_need_it_in_one_batch(verlet, damaged, dimers) -> None:
    asked = []
    safe = verlet()
    advance = safe.advance

    def counted(state, n_frames=None):
        asked.append((state.n_replicas, n_frames, state.time_fs))
        return advance(state, n_frames)

    safe.advance = counted
    judge = SaysSo("odd", [6, 0, 2, 3])
    GuardedPropagator(damaged(verlet()), safe, [judge]).advance(dimers)
    t0 = dimers.time_fs
    assert asked == [(1, 2, t0), (2, 1, t0 + 2.0), (3, 3, t0 + 3.0)]


def test_frames_that_are_not_finite_never_pass_even_without_judges(verlet, damaged, dimers) -> None:
    def poison(segment):
        segment.positions[0, 2:] = math.nan
        segment.velocities[3, 0, 1, 1] = math.inf

    guard = GuardedPropagator(damaged(verlet(), poison), verlet(), [])
    segment = guard.advance(dimers)
    assert bool(finite_frames(segment).all())
    assert torch.equal(segment.positions, verlet().advance(dimers).positions)
    assert [(e.judge, e.n_accepted) for e in segment.events] == [
        ("finite values", 2),
        ("finite values", 0),
    ]
    assert "not finite" in segment.events[0].reason


def test_the_strictest_judge_decides_and_later_ones_see_no_more_than_is_left(
    verlet, damaged, dimers
) -> None:
    first, second = SaysSo("first", [6, 5, 3, 1]), SaysSo("second", [4, 6, 3, 2])
    guard = GuardedPropagator(damaged(verlet()), verlet(), [first, second])
    segment = guard.advance(dimers)
    assert (segment.made_by == NETWORK).sum(1).tolist() == [4, 5, 3, 1]
    found = [(e.judge, e.reason) for e in segment.events]
    assert found == [
        ("second", "second 4"),
        ("first", "first 5"),
        ("first", "first 3"),
        ("first", "first 1"),
    ]
    short, last = SaysSo("short", [2, 1, 0, 2]), SaysSo("last", [2, 2, 2, 1])
    segment = GuardedPropagator(damaged(verlet()), verlet(), [short, last]).advance(dimers)
    assert last.seen == [2]
    assert (segment.made_by == NETWORK).sum(1).tolist() == [2, 1, 0, 1]
    assert [e.judge for e in segment.events] == ["short", "short", "short", "last"]
    unasked = SaysSo("unasked", [6, 6, 6, 6])
    GuardedPropagator(damaged(verlet()), verlet(), [SaysSo("no", [0] * 4), unasked]).advance(dimers)
    assert unasked.seen == []


def test_energies_of_judges_and_of_safe_frames_are_merged(verlet, damaged, dimers) -> None:
    nan = math.nan
    a = SaysSo("a", [6, 6, 6, 3], torch.full((4, 6), nan).double())
    a.energies[:, 0] = 1.0
    b = SaysSo("b", [6, 6, 6, 6], torch.full((4, 6), nan).double())
    b.energies[:, 5] = 2.0
    segment = GuardedPropagator(damaged(verlet()), verlet(), [a, b]).advance(dimers)
    energies = segment.potential_energies
    assert energies[0].nan_to_num(nan=-1.0).tolist() == [1.0, -1.0, -1.0, -1.0, -1.0, 2.0]
    assert energies[3, :3].nan_to_num(nan=-1.0).tolist() == [1.0, -1.0, -1.0]
    assert torch.equal(energies[3, 3:], verlet().advance(dimers).potential_energies[3, 3:])


def test_fewer_frames_than_a_segment(verlet, damaged, dimers) -> None:
    guard = GuardedPropagator(damaged(verlet(), stretch(1, 1)), verlet(), [LongBond()])
    segment = guard.advance(dimers, 2)
    assert segment.n_frames == 2
    assert segment.made_by[1].tolist() == [NETWORK, INTEGRATOR]


def noisy_guard(dimer_potential, damaged):
    generator = torch.Generator().manual_seed(5)
    safe = Langevin(dimer_potential, 0.5, 1.0, 6, 300.0, 20.0, generator)

    def by_time(segment):
        k = int(segment.times_fs[0]) // 6 % 4
        segment.positions[k, 3:, 1, 0] += 5.0

    fast = damaged(VelocityVerlet(dimer_potential, 0.5, 1.0, 6), by_time)
    guard = GuardedPropagator(fast, safe, [LongBond(), SaysSo("memory", [6] * 4)])
    return Thermostatted(guard, 300.0, 5.0, torch.Generator().manual_seed(6))


def test_a_restarted_run_is_the_uninterrupted_one_bit_for_bit(
    dimer_potential, damaged, dimers, assert_same
) -> None:
    going = noisy_guard(dimer_potential, damaged)
    state = dimers
    for _ in range(3):
        state = going.advance(state).last
    saved = {name: tensor.clone() for name, tensor in going.restart_state().items()}
    expected = [going.advance(state)]
    expected.append(going.advance(expected[0].last))
    fresh = noisy_guard(dimer_potential, damaged)
    fresh.restore(saved)
    again = fresh.advance(state)
    assert again.events
    assert_same(again, expected[0])
    assert_same(fresh.advance(again.last), expected[1])
    assert fresh.propagator.statistics() == going.propagator.statistics()
    assert float(fresh.propagator.judges[1].memory) == 5.0


def test_the_same_seed_gives_the_same_run(dimer_potential, damaged, dimers, assert_same) -> None:
    one, two = (noisy_guard(dimer_potential, damaged) for _ in range(2))
    first = one.advance(dimers)
    assert_same(first, two.advance(dimers))
    assert_same(one.advance(first.last), two.advance(first.last))


def test_statistics_count_makers_and_judges(verlet, damaged, dimers) -> None:
    judges = [LongBond(), SaysSo("quiet", [6] * 4)]
    guard = GuardedPropagator(damaged(verlet(), stretch(0, 4)), verlet(), judges)
    guard.advance(guard.advance(dimers).last)
    counts = guard.statistics()
    assert counts.segments == 8
    assert counts.frames_by == {"GIVEN": 0, "NETWORK": 44, "INTEGRATOR": 4}
    assert counts.rejections_by == {"length": 2, "quiet": 0, "finite values": 0}
    assert counts.frames_lost_by == {"length": 4, "quiet": 0, "finite values": 0}


def test_a_safe_propagator_that_fails_is_named_with_time_and_replica(
    verlet, damaged, dimers, harmonic
) -> None:
    class Refusing(type(harmonic())):
        def evaluate(self, state):
            raise ValueError("atoms 0 and 1 overlap")

    safe = VelocityVerlet(Refusing(), 0.5, 1.0, 6)
    guard = GuardedPropagator(damaged(verlet(), stretch(2, 4)), safe, [LongBond()])
    with pytest.raises(ValueError, match=r"replica\(s\) 2 .* from 4 fs on: .*atoms 0 and 1 over"):
        guard.advance(dimers)

    def poison(segment):
        segment.velocities[:] = math.nan

    broken = damaged(verlet(), poison)
    guard = GuardedPropagator(damaged(verlet(), stretch(1, 3)), broken, [LongBond()])
    with pytest.raises(ValueError, match="not finite for replica 1 after 3 fs"):
        guard.advance(dimers)


def test_wrong_combinations_are_refused(verlet, damaged, dimers, dimer_potential) -> None:
    slow = VelocityVerlet(dimer_potential, 0.5, 2.0, 6)
    with pytest.raises(ValueError, match=r"every 1.0 fs and the safe one every 2.0 fs"):
        GuardedPropagator(verlet(), slow, [])
    with pytest.raises(ValueError, match="two judges are named 'length'"):
        GuardedPropagator(verlet(), verlet(), [LongBond(), LongBond()])
    for parts in (("ethanol-egno", verlet()), (verlet(), "ethanol-escn")):
        with pytest.raises(ValueError, match=r"(fast|safe) is the name '.*', which is no propagat"):
            GuardedPropagator(*parts, [])
    bad = SaysSo("bad", [6, 6])
    with pytest.raises(ValueError, match=r"judge 'bad' gave \(2,\) counts and 2 reasons for 4"):
        GuardedPropagator(verlet(), verlet(), [bad]).advance(dimers)
    negative = SaysSo("negative", [6, 6, -1, 6])
    with pytest.raises(ValueError, match="judge 'negative' accepted"):
        GuardedPropagator(verlet(), verlet(), [negative]).advance(dimers)
    saved = GuardedPropagator(verlet(), verlet(), []).restart_state()
    with pytest.raises(ValueError, match="not made by a guard with 1 judges"):
        GuardedPropagator(verlet(), verlet(), [LongBond()]).restore(saved)


def test_several_segments_are_held_back_until_they_are_judged(verlet, damaged, dimers) -> None:
    # 18 frames are proposed at once. Replica 2 is bad from frame 8 on, in the second segment: the
    # safe propagator makes frames 8 to 11, and the rest is proposed again.
    def once(segment):
        if segment.n_frames == 18:
            segment.positions[2, 8:, 1, 0] += 5.0

    guard = GuardedPropagator(
        damaged(verlet(), once), verlet(), [LongBond()], segments_per_proposal=3
    )
    assert guard.n_frames == 18
    segment = guard.advance(dimers)
    expected = verlet().advance(dimers, 18)
    assert torch.equal(segment.positions, expected.positions)
    assert torch.equal(segment.velocities, expected.velocities)
    torch.testing.assert_close(segment.times_fs, expected.times_fs, rtol=1e-12, atol=0)
    assert segment.made_by[2].tolist() == [NETWORK] * 8 + [INTEGRATOR] * 4 + [NETWORK] * 6
    assert bool((segment.made_by[[0, 1, 3]] == NETWORK).all())
    (event,) = segment.events
    assert (event.replica, event.n_accepted, event.n_frames, event.time_fs) == (2, 8, 18, 9.0)
    counts = guard.statistics()
    assert counts.segments == 5
    assert counts.frames_by == {"GIVEN": 0, "NETWORK": 68, "INTEGRATOR": 4}
    assert counts.frames_lost_by["length"] == 10


def test_a_rejection_shortens_the_proposals_of_its_replica_until_it_recovers(
    verlet, damaged, dimers
) -> None:
    asked = []

    def watched(segment):
        asked.append((segment.n_replicas, segment.n_frames, float(segment.times_fs[0])))
        if segment.times_fs[0] < 6.0 and segment.n_replicas == 4:
            segment.positions[2, 1:, 1, 0] += 5.0

    guard = GuardedPropagator(damaged(verlet(), watched), verlet(), [LongBond()], recover_after=2)
    first = guard.advance(dimers)
    assert guard.horizon.frames(4).tolist() == [6, 6, 3, 6]
    second = guard.advance(first.last)
    expected = verlet().advance(dimers, 12)
    torch.testing.assert_close(second.positions, expected.positions[:, 6:], rtol=0, atol=1e-12)
    # The replica in trouble makes two proposals of three frames, and has then recovered.
    assert asked == [(4, 6, 1.0), (3, 6, 7.0), (1, 3, 7.0), (1, 3, 10.0)]
    assert guard.horizon.frames(4).tolist() == [6, 6, 6, 6]
    assert guard.statistics().shortest_frames == 3
    assert bool((second.made_by == NETWORK).all())


def test_replicas_of_different_horizons_restart_bit_for_bit(
    dimer_potential, damaged, dimers, assert_same
) -> None:
    def made():
        def by_time(segment):
            if int(segment.times_fs[0]) % 4 == 1:
                segment.positions[0, 1:, 1, 0] += 5.0

        def verlet():
            return VelocityVerlet(dimer_potential, 0.5, 1.0, 6)

        judges = [LongBond(), EnergyJudge(dimer_potential, 1.0)]
        guard = GuardedPropagator(
            damaged(verlet(), by_time),
            verlet(),
            judges,
            segments_per_proposal=2,
            recover_after=3,
        )
        return Thermostatted(guard, 300.0, 5.0, torch.Generator().manual_seed(6))

    going, state = made(), dimers
    for _ in range(3):
        state = going.advance(state).last
    assert len(set(going.propagator.horizon.frames(4).tolist())) > 1
    fresh = made()
    fresh.restore({name: tensor.clone() for name, tensor in going.restart_state().items()})
    expected = going.advance(state)
    assert_same(fresh.advance(state), expected)
    assert_same(fresh.advance(expected.last, 7), going.advance(expected.last, 7))
    assert fresh.propagator.statistics() == going.propagator.statistics()
    with pytest.raises(ValueError, match="segments_per_proposal is 0"):
        GuardedPropagator(fresh.propagator.fast, fresh.propagator.safe, [], segments_per_proposal=0)
