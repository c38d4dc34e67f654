"""The cost table: which rows there are and how they are worked out; never how fast this is."""

import itertools
import json

import pytest
import torch

from egno_md.benchmarks import cost
from egno_md.benchmarks.cost_engines import OpenMMEngine, PropagatorEngine, xtb_engine
from egno_md.benchmarks.rollout_subject import find_file
from egno_md.calculators.potential_from_xtb import has_tblite
from egno_md.cli import main
from egno_md.data.structures import read_structure
from egno_md.propagators.classical import VelocityVerlet
from egno_md.state import State

from .springs import Springs, start


class Clocked:
    """An engine that needs so much processor time for a piece of 2 ps of 3 replicas."""

    span_fs, n_replicas = 2000.0, 3

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.resets = clock, seconds, 0

    def reset(self):
        self.resets += 1

    def advance(self):
        self.clock["now"] += self.seconds


def test_time_per_picosecond_and_replica(monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr(cost.time, "process_time", lambda: clock["now"])
    quick, slow = Clocked(clock, 0.6), Clocked(clock, 6.0)
    found = cost._take_turns({"egno": quick, "escn": slow}, 3.0, "test")
    assert found["egno"] == pytest.approx([0.1] * 6)
    assert found["escn"] == pytest.approx([1.0] * 6)
    assert (quick.resets, slow.resets) == (6, 6)


def test_ratios_are_taken_round_by_round():
    table = cost._empty(cost.BenchmarkConfig(name="cost"), 32)
    one = {"egno": [1.0, 2.0], "escn": [10.0, 20.0]}
    many = {"egno": [0.1, 0.1], "escn": [3.0, 1.0]}
    cost._fill(table, "ethanol-egno", 9, one, many)
    first, second = table.rows
    assert first[5:] == (None, None)
    assert (second[5].mean, second[5].spread) == (10.0, 0.0)
    assert second[6].mean == pytest.approx(20.0)


def test_engines_move_all_replicas_and_go_back():
    verlets = [VelocityVerlet(Springs(), 0.5, 1.0, 2) for _ in range(2)]
    starts = [start(1, seed=k) for k in range(2)]
    engine = PropagatorEngine(verlets, starts)
    assert (engine.span_fs, engine.n_replicas) == (2.0, 2)
    engine.advance()
    assert [s.time_fs for s in engine._states] == [2.0, 2.0]
    engine.reset()
    assert [s.time_fs for s in engine._states] == [0.0, 0.0]


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_openmm_moves_as_velocities_say(platform):
    file = find_file("alanine_dipeptide.pdb", None)
    first = read_structure(file)
    v = torch.full((2, first.molecule.n_atoms, 3), 0.01, dtype=torch.float64)
    state = State(first.molecule, first.positions.expand(2, -1, -1).clone(), v)
    engine = OpenMMEngine("amber14", file, state, platform)
    engine.reset()
    engine.advance()
    assert (engine.span_fs, engine.n_replicas) == (100.0, 2)
    end = engine._contexts[1].getState(getPositions=True).getPositions(asNumpy=True)._value
    masses = first.molecule.masses[:, None]
    moved = (masses * (10.0 * torch.from_numpy(end) - first.positions[0])).sum(0) / masses.sum()
    # 0.01 Å/fs for 100 fs, whatever the forces inside do.
    assert moved.tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-3)


def test_xtb_moves_ethanol():
    if not has_tblite():
        pytest.skip("tblite is not installed: pip install 'egno-md[qm]'")
    first = read_structure(find_file("ethanol.xyz", None))
    engine = xtb_engine(State.at_rest(first.molecule, first.positions), 1)
    engine.advance()
    assert engine._states[0].time_fs == engine.span_fs == 1.0
    assert 0 < float((engine._states[0].positions - first.positions).abs().max()) < 0.1


def test_rows_of_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cost, "has_tblite", lambda: False)
    argv = ["benchmark", "cost", "--bundles", "ethanol-egno", "--n-replicas", "2"]
    argv += ["--rows", "egno", "escn", "xtb", "openmm-reference", "--cpu-minutes", "1e-6"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    table = json.loads((tmp_path / "cost" / "cost.json").read_text())
    names = [(row[0], row[2]) for row in table["rows"]]
    assert names == [
        ("ethanol-egno, ethanol", cost.ROWS["egno"]),
        ("ethanol-egno, ethanol", cost.ROWS["escn"]),
        ("alanine_dipeptide", cost.ROWS["openmm-reference"]),
    ]
    assert all(row[3]["mean"] > 0 for row in table["rows"])
    out = capsys.readouterr().out
    assert out.count("tblite is not installed (pip install 'egno-md[qm]')") == 1
    assert "OpenMM stands alone" in out


def test_where_compiling_fails_the_row_is_left_out_with_a_note(monkeypatch):
    def broken(bundle, start, *, compiled):
        engine = Clocked({"now": 0.0}, 1.0)
        if compiled:
            engine.advance = lambda: (_ for _ in ()).throw(RuntimeError("no compiler"))
        return engine

    monkeypatch.setattr(cost, "egno_engine", broken)
    ticks = itertools.count()
    monkeypatch.setattr(cost.time, "process_time", lambda: float(next(ticks)))
    notes = []
    config = cost.BenchmarkConfig(name="cost", cpu_minutes=1e-6)
    bundle, file = cost.load_bundle("ethanol-egno"), find_file("ethanol.xyz", None)
    found = cost._costs(config, ("egno", "egno-compiled"), bundle, file, 1, notes)
    assert list(found) == ["egno"]
    assert notes == ["Compiling is not possible here: no compiler"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rows", "gaff"), "allowed are egno-compiled, egno, escn"),
        (("--device", "cuda"), "measured on the cpu only"),
    ],
)
def test_wrong_options(words, said, tmp_path, capsys):
    assert main(["benchmark", "cost", *words, "--out", str(tmp_path)]) != 0
    assert said in capsys.readouterr().err
