import math
from pathlib import Path

import pytest
import torch

from egno_md.bonds import constitution
from egno_md.bundle import Bundle, BundleCard
from egno_md.segment import Event, MadeBy, Segment
from egno_md.state import Molecule, maxwell_boltzmann
from egno_md.trajectories.cost_ledger import ClassicalCost
from egno_md.trajectories.generate import StoreOptions, generate
from egno_md.trajectories.report import report_on, write_report
from egno_md.trajectories.report_checks import Mark, mean_temperatures
from egno_md.trajectories.report_sections import energy_drift, reason_rows
from egno_md.trajectories.run_record import record_run
from egno_md.trajectories.statistics import trajectory_statistics
from tests.trajectories.page import Page

NUMBERS = [6, 8, 1, 1, 1, 1]
BONDS = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5)]
CENTRE = torch.tensor(
    [
        [0.0, 0.0, 0.0],
        [1.43, 0.0, 0.0],
        [-0.36, 1.03, 0.0],
        [-0.36, -0.51, 0.89],
        [-0.36, -0.51, -0.89],
        [1.75, 0.9, 0.0],
    ],
    dtype=torch.float64,
)
CONFIG = {
    "mode": "guarded",
    "ensemble": "nvt",
    "temperature_K": 300.0,
    "length_ps": 0.8,
    "guard": "some-potential",
    "bond_limit_A": 0.5,
}
EVIL = 'energy <script>alert("x")</script> & 0.5 eV'


@pytest.fixture(scope="module")
def molecule():
    return Molecule.from_numbers(NUMBERS, bonds=BONDS)


def frames(molecule, n_replicas, n_frames, seed, spread=0.03):
    generator = torch.Generator().manual_seed(seed)
    shape = (n_replicas, n_frames, 6, 3)
    x = CENTRE + spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    v = maxwell_boltzmann(molecule, n_replicas * n_frames, 300.0, generator).reshape(shape)
    return x, v


def segment(molecule, seed=1, n_replicas=4, n_frames=401, spread=0.03, **changes):
    """A run's frames: the start, then the network's, with an integrator's stretch."""
    x, v = frames(molecule, n_replicas, n_frames, seed, spread)
    made = torch.full((n_replicas, n_frames), int(MadeBy.NETWORK), dtype=torch.int8)
    made[1, 40:60] = int(MadeBy.INTEGRATOR)
    made[:, 0] = int(MadeBy.GIVEN)
    energies = torch.full((n_replicas, n_frames), math.nan, dtype=torch.float64)
    energies[:, 8::8] = -10.0
    parts = {
        "molecule": molecule,
        "times_fs": 2.0 * torch.arange(n_frames, dtype=torch.float64),
        "positions": x,
        "velocities": v,
        "made_by": made,
        "potential_energies": energies,
    }
    return Segment(**(parts | changes))


def record(run, **labels):
    reference = labels.pop("reference", None)
    labels = {"config": CONFIG, "wall_s": 4.0, "cpu_s": 8.0} | labels
    return record_run(
        run.molecule,
        [run],
        n_replicas=run.n_replicas,
        n_frames=run.n_frames,
        frame_interval_fs=2.0,
        reference=reference,
        **labels,
    )


@pytest.fixture(scope="module")
def reference(molecule):
    x, v = frames(molecule, 16, 400, seed=100)
    found = trajectory_statistics(molecule, x, v, frame_interval_fs=2.0)
    about = torch.tensor(list(b"made <up> here"), dtype=torch.uint8)
    kelvin = torch.tensor(300.0, dtype=torch.float64)
    return found | {"description_utf8": about, "temperature_K": kelvin}


@pytest.fixture(scope="module")
def bundle(reference, molecule):
    card = BundleCard(
        name="methanol",
        kind="egno",
        architecture={"name": "egno"},
        elements=[1, 6, 8],
        molecules=[constitution(molecule.numbers, molecule.bonds)],
        temperature_range_K=(200.0, 400.0),
        training={"cpu_seconds": 600.0, "command": "egno-md train <methanol>"},
        held_out={"force_mae": 0.1},
    )
    return Bundle(card, {}, reference, Path("methanol.bundle"))


def read(summary):
    return Page(summary.path.read_text(encoding="utf-8"))


def marks(summary):
    return {check.name: check.mark for check in summary.checks}


def test_a_good_run_passes_every_check(molecule, reference, bundle, tmp_path):
    cost = ClassicalCost(5.0, 5.0, 0.5, 4, 100, "some-potential")
    run = record(segment(molecule), reference=reference)
    summary = report_on(run, tmp_path / "report.html", bundle=bundle, cost=cost)
    assert marks(summary) == dict.fromkeys(marks(summary), Mark.PASS)
    assert len(summary.checks) == 10
    assert summary.mark is Mark.PASS
    words = read(summary).words
    assert "All 10 checks that could be made passed." in words
    # 8 CPU-seconds for 3.2 ps are 2.5 per ps against 5: 600 s of training pay after 240 ps.
    assert "paid back only after 240 ps" in words
    assert summary.ledger.cpu_speedup == pytest.approx(2.0)
    assert "made <up> here" in words
    assert "egno-md train <methanol>" in words


def test_page_is_one_file_and_loads_nothing(molecule, reference, bundle, tmp_path):
    run = record(segment(molecule), reference=reference)
    summary = report_on(run, tmp_path / "report.html", bundle=bundle)
    page = read(summary)
    assert [r for r in page.references if not r.startswith(("#", "data:"))] == []
    assert len(page.ids) == len(set(page.ids))
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)
    text = summary.path.read_text(encoding="utf-8")
    assert "http" not in text
    assert text.count("<svg") >= 6
    assert "prefers-color-scheme: dark" in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    again = report_on(run, tmp_path / "again.html", bundle=bundle)
    assert again.path.read_text(encoding="utf-8") == text


def test_reasons_are_listed_and_escaped(molecule, tmp_path):
    events = tuple(
        Event(80.0 + n, 1, judge, reason, 3, 8)
        for n, (judge, reason) in enumerate(
            [
                ("energy error", EVIL),
                ("energy error", EVIL.replace("0.5", "0.7")),
                ("bond lengths", "bond 0-1 is 2.1 Å"),
            ]
        )
    )
    summary = report_on(record(segment(molecule), events=events), tmp_path / "report.html")
    page = read(summary)
    assert "script" not in page.tags
    assert EVIL in page.words
    assert "3 segments were rejected, in 1 of 4 replicas; 9 of their 24 frames" in page.words
    assert reason_rows(events)[0] == ("energy error", 2, "0.080 ps", EVIL)
    assert "bond lengths within 0.5 Å of their means" in page.words


def test_missing_information_is_said(molecule, tmp_path):
    energies = torch.full((4, 401), math.nan, dtype=torch.float64)
    run = record(
        segment(molecule, potential_energies=energies),
        config=CONFIG | {"mode": "surrogate"},
        wall_s=math.nan,
    )
    summary = report_on(run, tmp_path / "report.html")
    found = marks(summary)
    for name in (
        "Energies judged by a potential",
        "Bond lengths look like the reference",
        "h(r) looks like the reference",
        "Within the temperatures of the training data",
    ):
        assert found[name] is Mark.NOT_CHECKED
    words = read(summary).words
    assert "This run had no guard" in words
    assert "no reference statistics came with the bundle" in words
    assert "was not measured" in words
    assert "Not checked: " in words


def test_a_broken_bond_warns(molecule, reference, bundle, tmp_path):
    x, _ = frames(molecule, 4, 401, 1)
    x[2, 300, 5] += torch.tensor([0.9, 0.9, 0.0])
    run = record(segment(molecule, positions=x), reference=reference)
    summary = report_on(run, tmp_path / "report.html", bundle=bundle)
    (check,) = [c for c in summary.checks if c.name == "No bond broke"]
    assert check.mark is Mark.WARN
    assert "O1-H5" in check.note
    assert summary.mark is Mark.WARN
    assert "Do not trust this run yet: 1 of 10 checks warn" in read(summary).words


def test_frozen_hydrogens_warn_even_when_the_mean_is_right(molecule, tmp_path):
    run = segment(molecule)
    v = run.velocities.clone()
    hydrogen = molecule.numbers == 1
    # 4 of 6 atoms at half temperature, the others at twice: the mean stays.
    v[:, :, hydrogen] *= 0.5**0.5
    v[:, :, ~hydrogen] *= 2.0**0.5
    summary = report_on(record(segment(molecule, velocities=v)), tmp_path / "report.html")
    found = marks(summary)
    assert found["Mean temperature"] is Mark.PASS
    assert found["Temperature of each element (equipartition)"] is Mark.WARN


def test_a_hot_run_warns(molecule, tmp_path):
    v = segment(molecule).velocities * 1.05**0.5
    summary = report_on(record(segment(molecule, velocities=v)), tmp_path / "report.html")
    assert marks(summary)["Mean temperature"] is Mark.WARN


def test_temperature_errors_come_from_blocks(molecule):
    means = mean_temperatures(record(segment(molecule)))
    assert [m.label for m in means] == ["all atoms", "H", "C", "O"]
    for mean, freedom in zip(means, (18, 12, 3, 3), strict=True):
        exact = 300.0 * math.sqrt(2 / freedom / 1600)
        assert mean.error == pytest.approx(exact, rel=0.5)
        assert mean.kelvin == pytest.approx(300.0, abs=4 * exact)


def test_stiff_bonds_and_an_idle_network_warn(molecule, reference, bundle, tmp_path):
    made = segment(molecule).made_by.clone()
    made[0] = int(MadeBy.INTEGRATOR)
    run = record(segment(molecule, spread=0.02, made_by=made), reference=reference)
    summary = report_on(run, tmp_path / "report.html", bundle=bundle)
    found = marks(summary)
    assert found["Bond lengths look like the reference"] is Mark.WARN
    assert found["h(r) looks like the reference"] is Mark.WARN
    assert found["Frames made by the network"] is Mark.WARN


@pytest.mark.parametrize(("kelvin", "word"), [(350.0, "300 K and this run is at 350 K")])
def test_another_temperature_is_not_compared(molecule, reference, bundle, tmp_path, kelvin, word):
    run = record(segment(molecule), reference=reference, config=CONFIG | {"temperature_K": kelvin})
    summary = report_on(run, tmp_path / "report.html", bundle=bundle)
    assert marks(summary)["Bond lengths look like the reference"] is Mark.NOT_CHECKED
    assert word in read(summary).words


def test_reference_of_another_molecule_is_said(reference, bundle, tmp_path):
    water = Molecule.from_numbers([8, 1, 1], bonds=[(0, 1), (0, 2)])
    generator = torch.Generator().manual_seed(3)
    x = CENTRE[1:4] + 0.02 * torch.randn(2, 30, 3, 3, generator=generator, dtype=torch.float64)
    run = Segment(
        water,
        2.0 * torch.arange(30, dtype=torch.float64),
        x,
        torch.zeros_like(x),
        torch.ones((2, 30), dtype=torch.int8),
    )
    summary = report_on(record(run, reference=reference), tmp_path / "r.html", bundle=bundle)
    assert marks(summary)["h(r) looks like the reference"] is Mark.NOT_CHECKED
    assert "another molecule" in read(summary).words


@pytest.mark.parametrize("n_frames", [0, 1, 2, 3])
def test_few_frames_still_report(molecule, reference, bundle, tmp_path, n_frames):
    full = segment(molecule)
    parts = [full.upto(n_frames)] if n_frames else []
    run = record_run(
        molecule,
        parts,
        n_replicas=4,
        n_frames=n_frames,
        frame_interval_fs=2.0,
        reference=reference,
        config=CONFIG,
        wall_s=1.0,
        cpu_s=1.0,
    )
    assert run.n_frames == n_frames
    cost = ClassicalCost(5.0, 5.0, 0.5, 4, 100, "some-potential")
    summary = report_on(run, tmp_path / "report.html", bundle=bundle, cost=cost)
    words = read(summary).words
    if n_frames < 2:
        assert "The run has no frames" in words
        assert marks(summary)["No bond broke"] is Mark.NOT_CHECKED
    assert marks(summary)["Frames asked for were made"] is Mark.WARN


def test_an_atom_without_bonds_still_reports(tmp_path):
    argon = Molecule.from_numbers([18])
    v = maxwell_boltzmann(argon, 40, 300.0, torch.Generator().manual_seed(4)).reshape(2, 20, 1, 3)
    run = Segment(
        argon,
        torch.arange(20, dtype=torch.float64),
        torch.zeros_like(v),
        v,
        torch.ones((2, 20), dtype=torch.int8),
    )
    summary = report_on(record(run), tmp_path / "report.html")
    assert marks(summary)["No bond broke"] is Mark.NOT_CHECKED


def test_drift_is_the_slope_of_the_total_energy(molecule):
    times = 2.0 * torch.arange(401, dtype=torch.float64)
    energies = (0.012 * times * 1e-3).expand(4, -1).clone()
    energies[:, 1::3] = math.nan
    still = torch.zeros(4, 401, 6, 3, dtype=torch.float64)
    run = record(
        segment(molecule, potential_energies=energies, velocities=still),
        config=CONFIG | {"ensemble": "nve"},
    )
    # 12 meV per ps over 6 atoms.
    assert energy_drift(run) == pytest.approx(2.0)


class Replay:
    """A propagator that plays given frames."""

    frame_interval_fs, n_frames = 2.0, 50
    reversible = volume_preserving = False

    def __init__(self, whole):
        self.whole, self.at = whole, 1

    def advance(self, state, n_frames=None):
        n = self.n_frames if n_frames is None else n_frames
        self.at += n
        part = self.whole.frames(slice(self.at - n, self.at))
        event = Event(float(part.times_fs[0]), 0, "bond lengths", EVIL, 1, n)
        return Segment(
            *(getattr(part, f) for f in ("molecule", "times_fs", "positions", "velocities")),
            part.made_by,
            part.potential_energies,
            events=(event,),
        )

    def restart_state(self):
        return {}

    def restore(self, saved):
        return None


def test_a_store_is_read_and_reported(molecule, reference, bundle, tmp_path):
    whole = segment(molecule)
    options = StoreOptions(config=CONFIG, bundles={"methanol": "ab" * 32}, seed=7)
    generate(
        Replay(whole), whole.frame(0), length_ps=0.8, store=tmp_path / "run.zarr", options=options
    )
    out = tmp_path / "new" / "report.html"
    summary = write_report(tmp_path / "run.zarr", out, bundle=bundle)
    words = read(summary).words
    assert "8 segments were rejected" in words
    assert "ab" * 32 in words
    assert marks(summary)["Bond lengths look like the reference"] is Mark.PASS
    direct = report_on(record(whole, reference=reference), tmp_path / "d.html", bundle=bundle)
    # float32 on disk moves nothing that is printed in the table.
    assert [c.found for c in summary.checks] == [c.found for c in direct.checks]


def test_no_store_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.zarr"):
        write_report(tmp_path / "nothing.zarr", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
