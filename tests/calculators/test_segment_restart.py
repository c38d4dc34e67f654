from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCom
from ase.io import Trajectory
from safetensors.torch import save_file

from egno_md.calculators.potential_calculator import PotentialCalculator
from egno_md.calculators.segment_dynamics import SegmentDynamics
from egno_md.calculators.segment_restart import read_record, write_record
from tests.calculators.tethered_atoms import Oscillators, Tethers, some_atoms

BATHS = [None, "langevin", "bussi", "andersen"]


def driver(atoms: Atoms, thermostat: str | None = None, **options) -> SegmentDynamics:
    options.setdefault("bonds", [])
    temperature = {} if thermostat is None else {"temperature_K": 300.0, "thermostat": thermostat}
    return SegmentDynamics(atoms, Oscillators(), **temperature, **options)


@pytest.mark.parametrize("thermostat", BATHS)
@pytest.mark.parametrize("constraint", [None, FixAtoms([1]), FixCom()], ids=["", "atom", "centre"])
@pytest.mark.parametrize("stopped_at", [10, 13])
def test_a_run_goes_on_bit_for_bit(thermostat, constraint, stopped_at, tmp_path) -> None:
    whole = some_atoms(4)
    whole.set_constraint(constraint)
    driver(whole, thermostat).run(27)
    first = some_atoms(4)
    first.set_constraint(constraint)
    dyn = driver(first, thermostat)
    dyn.run(stopped_at)
    dyn.save_restart(tmp_path / "restart")
    dyn.run(3)  # what came after is lost
    # Another process: the structure of the start, other velocities, the bath's seed of old.
    again = some_atoms(4)
    again.set_constraint(constraint)
    again.set_momenta(np.ones((4, 3)))
    new = driver(again, thermostat)
    new.restore(tmp_path / "restart")
    assert new.nsteps == stopped_at
    assert new.made_by == "network"
    new.run(27 - stopped_at)
    np.testing.assert_array_equal(again.positions, whole.positions)
    np.testing.assert_array_equal(again.get_momenta(), whole.get_momenta())
    assert new.get_time() == pytest.approx(27 * new.dt)


def test_no_frame_is_written_twice(tmp_path) -> None:
    path = str(tmp_path / "a.traj")
    files = {"trajectory": path, "loginterval": 2, "guard": Tethers()}
    whole = some_atoms()
    positions = []
    dyn = driver(whole, **files)
    dyn.attach(lambda: positions.append(whole.positions.copy()), interval=2)
    dyn.run(20)
    atoms = some_atoms()
    dyn = driver(atoms, **files)
    dyn.run(12)
    record = dyn.restart_state()
    again = some_atoms()
    new = driver(again, append_trajectory=True, **files)
    new.restore(record)
    new.run(8)
    assert new.statistics() == driver_statistics(20)
    with Trajectory(path) as frames:
        assert len(frames) == 11
        for frame, x in zip(frames, positions, strict=True):
            np.testing.assert_array_equal(frame.positions, x)


def driver_statistics(n: int):
    dyn = driver(some_atoms(), guard=Tethers())
    dyn.run(n)
    return dyn.statistics()


def test_it_may_be_attached(tmp_path) -> None:
    atoms = some_atoms()
    dyn = driver(atoms)
    dyn.attach(dyn.save_restart, 4, tmp_path / "restart")
    dyn.run(10)
    assert int(read_record(tmp_path / "restart")["nsteps"]) == 8
    assert [p.name for p in tmp_path.iterdir()] == ["restart"]


def test_a_cell_comes_back(tmp_path) -> None:
    def boxed() -> Atoms:
        atoms = some_atoms()
        atoms.set_cell([20, 21, 22])
        atoms.set_pbc(True)
        return atoms

    atoms = boxed()
    dyn = driver(atoms)
    dyn.run(3)
    record = dyn.restart_state()
    dyn.run(4)
    again = boxed()
    again.set_cell([30, 30, 30])
    new = driver(again)
    new.restore(record)
    new.run(4)
    np.testing.assert_array_equal(again.positions, atoms.positions)
    np.testing.assert_array_equal(again.cell.array, atoms.cell.array)


def test_records_of_other_systems_are_refused() -> None:
    record = driver(some_atoms()).restart_state()
    other = some_atoms()
    other.numbers[0] = 8
    held = some_atoms()
    held.set_constraint(FixAtoms([0]))
    for dyn, message in (
        (driver(other), r"numbers are \[6, 1, 6\], not \[8, 1, 6\]"),
        (driver(some_atoms(4)), r"numbers are \(3,\), \(4,\) is needed"),
        (driver(some_atoms(), bonds=[(1, 0)]), r"bonds are \(0, 2\), \(1, 2\) is needed"),
        (driver(held), r"held are \(0,\), \(1,\) is needed"),
        (driver(some_atoms(), "langevin"), "no generator state"),
    ):
        with pytest.raises(ValueError, match=message):
            dyn.restore(record)
    bad = dict(record, positions=record["positions"] * float("nan"))
    with pytest.raises(ValueError, match="positions that are not finite"):
        driver(some_atoms()).restore(bad)
    del bad["velocities"]
    bad["positions"] = record["positions"]
    with pytest.raises(ValueError, match="velocities are missing"):
        driver(some_atoms()).restore(bad)


def test_damaged_and_foreign_files_are_refused(tmp_path) -> None:
    good = tmp_path / "good"
    driver(some_atoms()).save_restart(good)
    content = good.read_bytes()
    (tmp_path / "short").write_bytes(content[:-10])
    (tmp_path / "text").write_text("hello")
    save_file({"positions": torch.zeros(3)}, tmp_path / "foreign")
    for name, message in (
        ("short", "cannot be read"),
        ("text", "cannot be read"),
        ("foreign", "no record of a segment driver"),
    ):
        with pytest.raises(ValueError, match=message):
            driver(some_atoms()).restore(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        driver(some_atoms()).restore(tmp_path / "nothing")


def test_an_old_record_stays_until_the_new_one_is_whole(tmp_path, monkeypatch) -> None:
    path = tmp_path / "restart"
    write_record(path, {"nsteps": torch.tensor(1)})
    before = path.read_bytes()

    def full(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_record(path, {"nsteps": torch.tensor(2)})
    assert path.read_bytes() == before


def test_calculators_do_not_matter_to_a_restart() -> None:
    atoms = some_atoms()
    dyn = driver(atoms)
    dyn.run(3)
    again = some_atoms()
    again.calc = PotentialCalculator(Tethers())
    new = driver(again)
    new.restore(dyn.restart_state())
    dyn.run(9)
    new.run(9)
    np.testing.assert_array_equal(again.positions, atoms.positions)
