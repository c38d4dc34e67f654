from typing import ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from egno_md.config import RunConfig, TrainConfig
from egno_md.job import Job, make_job, read_job, read_toml


class Cake(Job):
    """Bake a cake."""

    verb: ClassVar[str] = "bake"
    positional: ClassVar[str | None] = "fruit"

    fruit: tuple[str, ...] = ()
    """What goes in."""
    oven_K: float = Field(450.0, gt=300.0)
    """Temperature."""
    n_eggs: int = 3
    """Number of eggs."""
    icing: bool = False
    """Cover it."""
    shape: Literal["round", "square"] = "round"
    """Outline."""
    name: str | None = "cake"
    """Written on top."""
    layers_A: tuple[float, ...] = (1.0,)
    """Thicknesses."""


def bake(*argv):
    return read_job(Cake, argv)


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "cake.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


class TestOptions:
    def test_defaults(self):
        assert bake() == Cake()

    @pytest.mark.parametrize(
        ("argv", "field", "value"),
        [
            (["--oven-K", "500"], "oven_K", 500.0),
            (["--oven_K=5e2"], "oven_K", 500.0),
            (["--oven-k", "500"], "oven_K", 500.0),
            (["--n-eggs", "-1"], "n_eggs", -1),
            (["--icing"], "icing", True),
            (["--icing", "--no-icing"], "icing", False),
            (["--shape", "square"], "shape", "square"),
            (["--name", "none"], "name", None),
            (["--name=--odd"], "name", "--odd"),
            (["--name="], "name", ""),
            (["--layers-A", "1", "2.5"], "layers_A", (1.0, 2.5)),
            (["--layers-A"], "layers_A", ()),
            (["apple", "pear"], "fruit", ("apple", "pear")),
            (["--fruit", "apple", "--no-icing"], "fruit", ("apple",)),
        ],
    )
    def test_spellings(self, argv, field, value):
        assert bake(*argv) == Cake(**{field: value})

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--oven-F", "1"], "unknown option '--oven-F' (did you mean '--oven-K'?); known are"),
            (["--zzz"], "unknown option '--zzz'; known are: --config, --fruit, --oven-K"),
            (["--oven-K", "hot"], "oven_K = 'hot' is not allowed: input should be a valid number"),
            (["--oven-K", "20"], "oven_K = '20' is not allowed: input should be greater than 300"),
            (["--oven-K", "nan"], "oven_K = 'nan' is not allowed: input should be a finite number"),
            (["--oven-K", "inf"], "oven_K = 'inf' is not allowed: input should be a finite number"),
            (["--oven-K", "none"], "oven_K = 'none' is not allowed"),
            (["--n-eggs", "2.5"], "n_eggs = '2.5' is not allowed: input should be a valid integer"),
            (["--shape", "star"], "input should be 'round' or 'square'"),
            (["--layers-A", "1", "x"], "layers_A.1 = 'x' is not allowed"),
            (["--oven-K"], "--oven-K needs a value"),
            (["--oven-K", "--icing"], "--oven-K needs a value"),
            (["--icing=yes"], "--icing takes no value"),
            (["--fruit", "a", "--icing", "b"], "one fruit is expected, 'b' is too many"),
        ],
    )
    def test_wrong_input_is_one_line(self, argv, message):
        with pytest.raises(ValueError, match=r".+") as error:
            bake(*argv)
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_long_value_is_shortened(self):
        with pytest.raises(ValueError, match="not allowed") as error:
            bake("--oven-K", "9" * 10_000 + "x")
        assert len(str(error.value)) < 300

    def test_one_positional_takes_one(self):
        assert read_job(RunConfig, ["a.xyz"]).structure == "a.xyz"
        with pytest.raises(ValueError, match=r"one structure is expected, 'b\.xyz' is too many"):
            read_job(RunConfig, ["a.xyz", "b.xyz"])

    @pytest.mark.parametrize("word", ["-h", "--help"])
    def test_help_names_every_field_with_its_text(self, word, capsys):
        with pytest.raises(SystemExit) as stop:
            bake("--oven-K", word)
        assert not stop.value.code
        text = capsys.readouterr().out
        for words in ("egno-md bake", "--oven-K FLOAT", "Temperature.", "{round,square}", "450.0"):
            assert words in text


class TestFiles:
    def test_file_first_then_options(self, toml):
        path = toml("oven_K = 500\nn_eggs = 5\nfruit = ['fig']\nicing = true\n")
        assert bake(path) == Cake(oven_K=500.0, n_eggs=5, fruit=("fig",), icing=True)
        assert bake("--config", path, "--n-eggs", "6").n_eggs == 6
        assert bake(path, "--no-icing", "plum") == Cake(oven_K=500.0, n_eggs=5, fruit=("plum",))
        assert bake("--n-eggs=7", f"--config={path}").n_eggs == 7

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("oven_C = 200\n", "unknown key 'oven_C' (did you mean 'oven_K'?); known are: fruit"),
            ("oven_K = 1.0\n", "oven_K = 1.0 is not allowed: input should be greater than 300"),
            ("oven_K = nan\n", "oven_K = nan is not allowed"),
            ("oven_K = \n", "not valid TOML"),
            ("[bake]\noven_K = 500\n", "unknown key 'bake'"),
            ("n_eggs = 1\nn_eggs = 2\n", "not valid TOML"),
            ("shape = ['round']\n", "shape = ['round'] is not allowed"),
        ],
    )
    def test_wrong_files_are_one_line(self, toml, text, message):
        with pytest.raises(ValueError, match=r".+") as error:
            bake(toml(text))
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    def test_an_option_does_not_hide_an_unknown_key(self, toml):
        with pytest.raises(ValueError, match="unknown key 'oven_C'"):
            bake(toml("oven_C = 200\n"), "--oven-K", "500")

    def test_missing_file_folder_and_binary(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no such job file: nowhere\.toml"):
            bake("nowhere.toml")
        with pytest.raises(FileNotFoundError, match="no such job file"):
            read_toml(Cake, tmp_path)
        (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match="not valid TOML"):
            bake(str(tmp_path / "b.toml"))

    def test_an_enormous_file_is_not_read(self, toml):
        with pytest.raises(ValueError, match="1000003 bytes; a job file may have 1000000"):
            bake(toml("#" * 1_000_003))

    @pytest.mark.parametrize("depth", [100_000])
    def test_deep_nesting_is_an_error_of_one_line(self, toml, depth):
        with pytest.raises(ValueError, match="not valid TOML"):
            bake(toml("x = " + "[" * depth))


class TestJobs:
    def test_a_job_does_not_change(self):
        with pytest.raises(ValidationError, match="frozen"):
            Cake().n_eggs = 4

    def test_unknown_names_are_refused_in_python_too(self):
        with pytest.raises(ValidationError, match="extra"):
            Cake(eggs=4)
        with pytest.raises(ValueError, match=r"unknown key 'eggs' \(did you mean 'n_eggs'\?\)"):
            make_job(Cake, {"eggs": 4})

    @pytest.mark.parametrize("job", [RunConfig, TrainConfig])
    def test_every_field_is_explained(self, job):
        for name, field in job.model_fields.items():
            assert field.description, name
            assert not field.is_required(), name

    @pytest.mark.parametrize("job", [RunConfig(example="ethanol"), TrainConfig(data=("a.npz",))])
    def test_jobs_survive_json(self, job):
        assert type(job).model_validate_json(job.model_dump_json()) == job

    def test_a_run_needs_one_start(self):
        with pytest.raises(ValueError, match="nothing to start from"):
            read_job(RunConfig, [])
        with pytest.raises(ValueError, match="both given"):
            read_job(RunConfig, ["a.xyz", "--example", "ethanol"])
        assert read_job(RunConfig, ["--resume"]).resume
