"""`brim profile from-journal`: what a server's steps took, and how to simulate its traffic with it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brim.cli.flags import Json, refuse_unwritable
from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError, MissingPackages
from brim.core.request import TaskClass
from brim.metrics.samples import Samples
from brim.workloads.wording import counted

if TYPE_CHECKING:
    from brim.profiles.loader import Profile
    from brim.workloads.journals import Journal

TARGETS = {"ttft_ns": "--ttft-ms", "tpot_ns": "--tpot-ms", "itl_ns": "--itl-ms"}
OTHERWISE = (
    *("num_blocks", "policy", "enable_prefix_caching", "target_forward_tokens", "max_model_len"),
    "ttft_ms",
)
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def from_journal(
    journal: Annotated[Path, typer.Argument(help="What a scheduler wrote: decision_log of Brim's settings.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write, ending in .json.")],
    tensor_parallel: Annotated[
        int | None, typer.Option(min=1, help="GPUs that served; else what the journal tells, or 1.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Fit a profile to the steps that a server ran, and say how to simulate its traffic with it.

    A journal is a trace too: `brim trace stats JOURNAL`, `brim compare JOURNAL --profile OUTPUT ...`.
    """
    try:
        from brim.profiling.from_journal import profile_of
    except ImportError as exc:
        raise MissingPackages(f"a fit needs numpy and scipy ({exc})", "profiling") from exc
    from brim.profiles.loader import as_json
    from brim.workloads.journals import load_journal

    if output.suffix != ".json":
        raise ConfigError(f"--output {output} must end in .json, so that it can be told from a name")
    refuse_unwritable("--output", output)
    found = load_journal(journal)
    profile = profile_of(found, output.stem, tensor_parallel)
    try:
        output.write_text(as_json(profile), encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"can't write {output}: {exc.strerror}; give another --output") from exc
    served, command = latencies(found), _command(journal, output, found)
    if json_output:
        print(json.dumps({**json.loads(as_json(profile)), "served": served, "command": command}))
    else:
        print("\n".join([*_told(profile, output), *_as_it_went(served, found), "", shlex.join(command)]))


def latencies(journal: Journal) -> dict[str, dict[str, float | None]]:
    """Of online requests, as they went, exact; in seconds."""
    online = [each for each in journal.requests.values() if each.task_class is TaskClass.ONLINE]
    return {
        "ttft_seconds": _percentiles([each.ttft_seconds for each in online]),
        "tpot_seconds": _percentiles([each.tpot_seconds for each in online]),
    }


def _percentiles(values: Iterable[float | None]) -> dict[str, float | None]:
    samples = Samples()
    for value in values:
        if value is not None:
            samples.observe(value)
    return dict(zip(SHARES, samples.percentiles([*SHARES.values()]), strict=True))


def _as_it_went(served: dict[str, dict[str, float | None]], journal: Journal) -> list[str]:
    """What the row `vllm` should come near to, where vLLM decided by itself."""
    line = "{:<30}{:>12}{:>12}{:>12}"
    lines = [line.format("online requests, as they went", *SHARES)]
    for name, figures in served.items():
        shown = ("-" if value is None else f"{1e3 * value:.1f} ms" for value in figures.values())
        lines.append(line.format(f"  {name.removesuffix('_seconds').upper()}", *shown))
    _, usual, of = journal.targets()
    return lines if usual == of else [*lines, f"targets: those of {usual} of {of} online requests"]


def _command(path: Path, output: Path, journal: Journal) -> list[str]:
    """vLLM's own and Brim's policy on the journal's traffic, with the server's limits and targets."""
    config, (targets, _, _) = journal.config, journal.targets()
    known = SchedulerConfig(**{name: _plain(value) for name, value in config.items()})
    policy = known.policy if known.policy != "vllm" else "brim"
    words = ["brim", "compare", str(path), "--profile", str(output), "--policy", f"vllm,{policy}"]
    words += ["--max-model-len", str(known.max_model_len), "--depth", str(min(journal.depth, 2))]
    words += ["--target-forward-tokens", str(known.forward_tokens)]
    for each in fields(SchedulerConfig):
        value = getattr(known, each.name)
        if each.name not in OTHERWISE and value != each.default:
            words += [f"--{each.name.replace('_', '-')}", str(value)]
    if not known.enable_prefix_caching:
        words.append("--no-enable-prefix-caching")
    for name, flag in TARGETS.items():
        if name in targets:
            words += [flag, f"{targets[name] / 1e6:g}"]
    return words if "e2e_ns" not in targets else [*words, "--e2e-s", f"{targets['e2e_ns'] / 1e9:g}"]


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _told(profile: Profile, output: Path) -> list[str]:
    assert profile.fit is not None
    held_back = profile.fit.held_back
    return [
        *profile.notes,
        f"error on sizes held back: mean {held_back.mape:.1%}, p95 {held_back.p95:.1%}; "
        f"largest: {profile.fit.largest_misfit}",
        f"{output}: {counted(profile.tensor_parallel, 'GPU')}, {profile.kv_tokens()} KV tokens",
    ]
