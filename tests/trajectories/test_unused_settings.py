"""Options that would do nothing are refused; what a job file has for another mode is not."""

from importlib.resources import files

import pytest

from egno_md.cli import main
from egno_md.config import RunConfig, read_job
from egno_md.job import named_keys
from egno_md.trajectories.unused_settings import refuse_unused

MODES = ("surrogate", "guarded", "metropolised", "classical", "parareal")
EXAMPLES = sorted(
    path.name.removesuffix(".toml")
    for path in (files("egno_md") / "examples").iterdir()
    if path.name.endswith(".toml") and not path.name.startswith("train_")
)


def check(argv):
    config = read_job(RunConfig, argv)
    refuse_unused(config, *named_keys(RunConfig, argv))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--outer-step-fs 3 --mode classical", "outer_step_fs = 3.0 .* an inner_potential"),
        ("--frame-interval-fs 8 --mode metropolised", "one frame per proposal"),
        ("--n-slabs 4", "n_slabs = 4 would have no effect here, in mode 'guarded'; it goes with"),
        ("--n-workers 2 --mode classical", "mode 'parareal'"),
        ("--tolerance-A 1e-3 --mode metropolised", "mode 'parareal'"),
        ("--recover-after 3 --mode parareal", "mode 'guarded'"),
        ("--energy-every 2 --mode surrogate", "mode 'guarded'"),
        ("--guard-calibration-windows 0 --mode classical", "mode 'guarded'"),
        ("--guard-alarm-rate 0.05", "guard_calibration_windows in mode 'guarded'"),
        ("--other-networks", "needs a value"),
        ("--disagreement-limit-A 0.2", "other_networks in mode 'guarded'"),
        ("--tuning-cpu-s 3 --proposal-fs 36 --mode metropolised", "without proposal_fs"),
        ("--tuning-cpu-s 3", "mode 'metropolised' without proposal_fs"),
        ("--bond-limit-A 0.2 --mode surrogate", "the judges of mode 'guarded'"),
        ("--contact-factor 0.9 --mode classical", "the judges of mode 'guarded'"),
        ("--energy-limit-eV 0.2 --mode metropolised", "the judges of mode 'guarded'"),
        ("--temperature-alarm-rate 0.01 --ensemble nve", "mode 'guarded' with ensemble 'nvt'"),
        ("--energy-frames all --energy-limit-eV none", "an energy_limit_eV in mode 'guarded'"),
        (
            "--guard-calibration-windows 299 --energy-limit-eV none --bond-limit-A none "
            "--contact-factor none",
            "guard_calibration_windows = 299 would .* a judge whose limit they set",
        ),
        ("--friction-per-ps 5 --ensemble nve", "goes with ensemble 'nvt'"),
    ],
)
def test_an_option_without_effect_is_refused(more, said):
    with pytest.raises(ValueError, match=said):
        check(["--example", "ethanol", *more.split()])


@pytest.mark.parametrize(
    "more",
    [
        "--outer-step-fs 3 --mode classical --inner-potential ethanol-distance",
        "--frame-interval-fs 3",
        "--n-slabs 4 --n-workers 2 --mode parareal",
        "--recover-after 3 --guard-calibration-windows 299 --guard-alarm-rate 0.05",
        "--other-networks transferable-egno --disagreement-limit-A 0.2",
        "--tuning-cpu-s 3 --mode metropolised",
        "--friction-per-ps 5 --mode metropolised",
        "--propagator ethanol-egno --mode classical",
        "--guard-calibration-windows 299 --energy-limit-eV none --bond-limit-A none",
    ],
)
def test_an_option_with_an_effect_is_taken(more):
    check(["--example", "ethanol", *more.split()])


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_goes_with_every_mode(example):
    check(["--example", example])
    for mode in MODES:
        check(["--example", example, "--mode", mode])


def test_a_job_file_may_have_settings_for_its_own_mode(tmp_path):
    job = tmp_path / "job.toml"
    job.write_text('example = "ethanol"\nmode = "parareal"\nn_slabs = 4\n')
    check([str(job)])
    check([str(job), "--mode", "classical"])
    with pytest.raises(ValueError, match="n_workers = 2 would have no effect"):
        check([str(job), "--mode", "classical", "--n-workers", "2"])
    job.write_text('example = "ethanol"\nmode = "guarded"\nn_slabs = 4\n')
    with pytest.raises(ValueError, match="n_slabs = 4 would have no effect"):
        check([str(job)])


def test_a_structure_that_an_option_took_is_pointed_at():
    with pytest.raises(ValueError, match=r"other-networks took a, mine\.xyz: name the file first"):
        check(["--other-networks", "a", "mine.xyz"])


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    argv = ["run", "--example", "ethanol", "--n-slabs", "4", "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("egno-md: error: n_slabs = 4 would have no effect here")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
