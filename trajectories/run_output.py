"""What a run leaves beside its store: run.json and a few lines for people."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from egno_md.segment import MadeBy
from egno_md.state import Molecule
from egno_md.trajectories.generate import RunSummary
from egno_md.trajectories.guard_facts import guard_sentences
from egno_md.trajectories.run_record import RunRecord, in_percent
from egno_md.trajectories.sampling_facts import effective_samples, sampling_sentences
from egno_md.trajectories.store_format import replace_file


def formula(molecule: Molecule) -> str:
    """Return the formula in Hill's order, "C2H6O"."""
    from ase.formula import Formula

    symbols = [chemical_symbols[z] for z in molecule.numbers.tolist()]
    return str(Formula.from_list(symbols).format("hill"))


def mean_temperatures(record: RunRecord) -> dict[str, float]:
    """Return the mean kinetic temperature of all atoms and of each element, K.

    The start is left out unless there is nothing else.
    """
    first = 1 if record.n_frames > 1 else 0
    means = {"all": float(record.total_temperature[:, first:].mean())}
    for k, number in enumerate(record.elements.tolist()):
        means[chemical_symbols[number]] = float(record.temperatures[:, first:, k].mean())
    return means


def run_facts(record: RunRecord, summary: RunSummary) -> dict[str, Any]:
    """Return the measures of a run for run.json."""
    facts = {
        "molecule": formula(record.molecule),
        "n_replicas": summary.n_replicas,
        "n_frames": summary.n_frames,
        "length_ps": summary.length_ps,
        "wall_s": summary.wall_s,
        "cpu_s": summary.cpu_s,
        "ps_per_s": summary.ps_per_s,
        "share_network": record.share(MadeBy.NETWORK),
        "share_integrator": record.share(MadeBy.INTEGRATOR),
        "fallbacks": dict(Counter(e.judge for e in record.events).most_common()),
        "mean_temperature_K": mean_temperatures(record),
        "warnings": list(record.warnings),
    }
    if record.effective is not None:
        facts["effective_samples"] = record.effective.to_json(summary.cpu_s)
    if record.guard:
        facts["guard"] = dict(record.guard)
    if record.acceleration is not None and record.acceleration.facts:
        facts[record.acceleration.kind] = dict(record.acceleration.facts)
    if record.sampling:
        n = effective_samples(record.potential_energies[:, 1:])
        facts["sampling"] = {**record.sampling, "effective_samples_of_energy": n}
    return facts


def describe(record: RunRecord, summary: RunSummary) -> str:
    """Say in a few lines what a run came to."""
    total_ps = summary.length_ps * summary.n_replicas
    copies = "" if summary.n_replicas == 1 else f" x {summary.n_replicas} = {total_ps:g} ps"
    lines = [
        f"{formula(record.molecule)}: {summary.length_ps:g} ps{copies} in {summary.wall_s:.1f} s "
        f"({summary.ps_per_s:.3g} ps/s)",
    ]
    network, integrator = record.share(MadeBy.NETWORK), record.share(MadeBy.INTEGRATOR)
    if not math.isnan(network):
        lines.append(
            f"frames made by the network {in_percent(network)}, "
            f"by the integrator {in_percent(integrator)}"
        )
    lines += _fallback_lines(record)
    if record.guard:
        lines += guard_sentences(record.guard)
    if record.sampling:
        lines += sampling_sentences(record.sampling)
    if record.acceleration is not None:
        lines += record.acceleration.lines
    if record.effective is not None:
        lines.append(record.effective.sentence(summary.cpu_s))
    means = mean_temperatures(record)
    each = ", ".join(f"{name} {value:.1f}" for name, value in means.items() if name != "all")
    target = "" if record.target_K is None else f", target {record.target_K:g}"
    lines.append(f"mean temperature {means['all']:.1f} K ({each}{target})")
    return "\n".join(lines)


def _fallback_lines(record: RunRecord) -> list[str]:
    """How often each judge rejected, with its first reason."""
    counts = Counter(e.judge for e in record.events)
    if not counts:
        return ["fallbacks none"] if record.mode == "guarded" else []
    lines = [f"fallbacks {len(record.events)}"]
    for judge, n in counts.most_common():
        first = next(e for e in record.events if e.judge == judge)
        lines.append(f"  {judge}: {n}, the first at {first.time_fs:g} fs: {first.reason}")
    return lines


def write_run_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write run.json; what is not finite becomes null.

    Raises:
        OSError: if it cannot be written.
    """
    text = json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False)
    replace_file(path, text.encode() + b"\n")


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
