"""Jobs: one frozen model is the schema of a TOML file and of the command-line options.

A job is read from the file first, then from the command line, and checked once. Every name
and value that is wrong is an error of one line which says what is allowed.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

JobT = TypeVar("JobT", bound="Job")

#: A job file is a page of text; more is a wrong file.
MAX_TOML_BYTES = 1_000_000

_NONE_WORDS = ("none", "null")


class Job(BaseModel):
    """What every job has in common: no extra keys, no changes after birth, finite numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    verb: ClassVar[str] = ""
    """The command-line verb that reads this job."""

    positional: ClassVar[str | None] = None
    """The field that takes the arguments without a name; several if it is a tuple."""

    @classmethod
    def starting_file(cls, given: Mapping[str, Any]) -> str | None:
        """Return the TOML file that some options call for without naming it, if there is one."""
        return None


def read_job(job: type[JobT], argv: Sequence[str]) -> JobT:
    """Read a job from a TOML file, if one is named, and then from command-line options.

    `--config FILE.toml`, or a first argument that ends in `.toml`, names the file. Options are
    spelled `--length-ps 10`, `--length-ps=10`, `--resume`, `--no-report`, `--guard none`.
    `--help` prints the options and leaves the program.

    Args:
        job: the model to read.
        argv: the arguments after the verb.

    Returns:
        The job, checked.

    Raises:
        ValueError: naming the key, the value and what is allowed.
        FileNotFoundError: if the TOML file is not there.
    """
    if any(word in ("-h", "--help") for word in argv):
        _print_help(job)
    given, values = _read_both(job, argv)
    return make_job(job, {**values, **given}, source=f"egno-md {job.verb}")


def named_keys(job: type[Job], argv: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Say which keys options name, and which a job file names.

    Args:
        job: the model to read.
        argv: the arguments after the verb, as for `read_job`.

    Raises:
        ValueError: as `read_job` does.
        FileNotFoundError: if the TOML file is not there.
    """
    given, values = _read_both(job, argv)
    return frozenset(given), frozenset(values)


def _read_both(job: type[Job], argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of the options, and of the TOML file, if one is named or called for."""
    given, toml_path = _read_options(job, argv)
    toml_path = toml_path or job.starting_file(given)
    return given, {} if toml_path is None else read_toml(job, toml_path)


def read_toml(job: type[Job], path: str | Path) -> dict[str, Any]:
    """Read the values of a job from a TOML file; names are checked, values not yet.

    Raises:
        ValueError: if the file is too large, not TOML, or has a key the job does not know.
        FileNotFoundError: if it is not there.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no such job file: {file}")
    if file.stat().st_size > MAX_TOML_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size} bytes; a job file may have 1000000")
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid TOML: {error}") from None
    except RecursionError:
        raise ValueError(f"{file} is not valid TOML for a job: nested too deeply") from None
    for key in values:
        if key not in job.model_fields:
            _refuse_name(f"{file}: unknown key", key, list(job.model_fields))
    return values


def make_job(job: type[JobT], values: Mapping[str, Any], source: str = "") -> JobT:
    """Make a job from plain values.

    Args:
        job: the model.
        values: field name to value; strings are turned into numbers where numbers are due.
        source: where they come from, for the error.

    Raises:
        ValueError: one line with the key, the value and what is allowed.
    """
    for key in values:
        if key not in job.model_fields:
            _refuse_name(f"{source}: unknown key".lstrip(": "), key, list(job.model_fields))
    try:
        return job.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError(f"{source}: {first_error(error)}".lstrip(": ")) from None


def first_error(error: ValidationError) -> str:
    """Say the first thing a schema found wrong in one line: key, value, what is allowed."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if problem["type"] == "missing":
        return f"{key} is missing"
    shown = repr(problem["input"])
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return f"{key} = {shown} is not allowed: {message[:1].lower()}{message[1:]}"


def _refuse_name(what: str, name: str, known: Sequence[str]) -> NoReturn:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"{what} {name!r}{hint}; known are: {', '.join(known)}")


def _option(field: str) -> str:
    """Spell a field as an option."""
    return "--" + field.replace("_", "-")


def _holds(annotation: object, wanted: type) -> bool:
    """Whether a type, or one member of a union, is or is made from `wanted`."""
    if annotation is wanted or get_origin(annotation) is wanted:
        return True
    return get_origin(annotation) is not tuple and any(
        _holds(member, wanted) for member in get_args(annotation)
    )


def _read_options(job: type[Job], argv: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """Split arguments into values by field, still as text, and the name of a TOML file."""
    by_option: dict[str, tuple[str, bool | None]] = {}
    for field, info in job.model_fields.items():
        flag = _holds(info.annotation, bool)
        by_option[_option(field).lower()] = (field, True if flag else None)
        if flag:
            by_option["--no-" + _option(field)[2:].lower()] = (field, False)
    known = ["--config", *(_option(f) for f in job.model_fields)]
    values: dict[str, Any] = {}
    loose: list[str] = []
    toml_path: str | None = None
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            loose.append(word)
            continue
        name, equals, text = word.partition("=")
        if equals:
            words.insert(0, text)
        if name == "--config":
            toml_path = _take_one(name, words, bool(equals))
            continue
        found = by_option.get(name.replace("_", "-").lower())
        if found is None:
            _refuse_name(f"egno-md {job.verb}: unknown option", name, known)
        field, flag_value = found
        annotation = job.model_fields[field].annotation
        if flag_value is not None:
            if equals:
                raise ValueError(f"{name} takes no value; write {name} or --no-{name[2:]}")
            values[field] = flag_value
        elif _holds(annotation, tuple):
            many = [words.pop(0)] if equals else []
            while words and not words[0].startswith("--"):
                many.append(words.pop(0))
            values[field] = tuple(many)
        else:
            values[field] = _plain(_take_one(name, words, bool(equals)), annotation)
    if loose and loose[0].endswith(".toml") and toml_path is None:
        toml_path = loose.pop(0)
    _place_loose(job, loose, values)
    return values, toml_path


def _take_one(name: str, words: list[str], always: bool) -> str:
    """Take the value of an option off the front of the remaining arguments."""
    if not words or (words[0].startswith("--") and not always):
        raise ValueError(f"{name} needs a value")
    return words.pop(0)


def _plain(text: str, annotation: object) -> str | None:
    """Turn the word none into None where a field may be None."""
    return None if text.lower() in _NONE_WORDS and _holds(annotation, type(None)) else text


def _place_loose(job: type[Job], loose: list[str], values: dict[str, Any]) -> None:
    """Give arguments without a name to the field that takes them."""
    if not loose:
        return
    field = job.positional
    if field is None:
        raise ValueError(f"egno-md {job.verb}: {loose[0]!r} is not expected; options start with --")
    many = _holds(job.model_fields[field].annotation, tuple)
    if field in values or (len(loose) > 1 and not many):
        raise ValueError(f"egno-md {job.verb}: one {field} is expected, {loose[-1]!r} is too many")
    values[field] = tuple(loose) if many else loose[0]


def _print_help(job: type[Job]) -> NoReturn:
    """Print the options of a job and leave."""
    import tyro

    words = "[JOB.toml]" + (f" [{job.positional}]" if job.positional else "")
    tyro.cli(
        job,
        args=["--help"],
        prog=f"egno-md {job.verb} {words}",
        description=(job.__doc__ or "").strip()
        + "\n\nA job file holds the same names as keys (length_ps = 10.0); "
        "options come after it and win.",
    )
    raise SystemExit(0)
