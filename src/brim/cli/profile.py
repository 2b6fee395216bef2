"""`brim profile`: the shipped step-time profiles, and new ones: measured, from tables, from data sheets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from brim.cli.flags import Json, refuse_unwritable, takes_settings
from brim.cli.settings import MeasureSettings
from brim.core.errors import ConfigError, MissingPackages

if TYPE_CHECKING:
    from brim.profiles.loader import Errors, Profile
    from brim.profiling.engine_steps import Grid
    from brim.profiling.on_engine import Measurement
    from brim.profiling.replay import Replay

profile_app = typer.Typer(help="How long steps take: list, show, measure, fit, replay.", no_args_is_help=True)
DIFFERENT = 1
REPLAYED = "rtxpro6000-llama-3.1-8b"

Name = Annotated[str, typer.Argument(help="A shipped profile, or the path of a .json file.")]
Data = Annotated[Path, typer.Option("--data", help="Folder with the published tables; see docs/profiles.md.")]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Folder for the profiles.")]
Check = Annotated[bool, typer.Option("--check", help="Write nothing; compare with the shipped profiles.")]


@profile_app.command("list")
def show_all(json_output: Json = False) -> None:
    """List the shipped profiles."""
    from brim.profiles.loader import load, names

    profiles = [load(name) for name in names()]
    if json_output:
        print(json.dumps([_summary(profile) for profile in profiles]))
        return
    line = "{:<26}{:<10}{:>13}{:>10}{:>12}  {}"
    print(line.format("name", "kind", "error", "TFS", "KV tokens", "GPU"))
    for profile in profiles:
        error = f"{profile.fit.held_back.mape:.1%}" if profile.fit else "not measured"
        tfs, kv_tokens = profile.target_forward_tokens, profile.kv_tokens()
        print(line.format(profile.name, profile.kind, error, tfs, kv_tokens, _gpus(profile)))
    print("error: mean absolute error on steps whose sizes were held back from the fit")


@profile_app.command()
def show(name: Name, json_output: Json = False) -> None:
    """Show one profile: what it is made of, its errors, and what some steps take."""
    from brim.profiles.loader import as_json, load

    profile = load(name)
    if json_output:
        print(json.dumps({**json.loads(as_json(profile)), "kv_tokens": profile.kv_tokens()}))
        return
    print(f"{profile.name}: {profile.model} on {_gpus(profile)}, {profile.kind}, {profile.date}")
    print(f"source: {profile.source}")
    for note in (*profile.notes, *(profile.fit.comparisons if profile.fit else ())):
        print(f"- {note}")
    for what, value in _figures(profile).items():
        print(f"{what:<42}{value}")


@profile_app.command()
def fit(
    data: Data,
    names: Annotated[list[str] | None, typer.Argument(help="Which profiles; else all.")] = None,
    output: Folder = Path("brim-profiles"),
    check: Check = False,
) -> None:
    """Fit the profiles to published tables. With --check, exit status 1 when a shipped one differs."""
    try:
        from brim.profiling.catalogue import RECIPES, recipe
    except ImportError as exc:
        raise _without_numpy(exc) from exc
    recipes = {name: recipe(name) for name in names or RECIPES}
    same = True
    for name, one in recipes.items():
        profile = one.make(name, data)
        same &= _compared(profile) if check else _written(profile, output / f"{name}.json")
    if not same:
        raise typer.Exit(DIFFERENT)


@profile_app.command()
def replay(
    data: Data,
    trace: Annotated[Path, typer.Option(help="The trace that the run served.")],
    name: Annotated[str, typer.Option("--profile", help="Step times to predict with.")] = REPLAYED,
    json_output: Json = False,
) -> None:
    """Simulate the published vLLM run on an RTX PRO 6000, and print predicted beside measured."""
    try:
        from brim.profiling.replay import replay as run
    except ImportError as exc:
        raise _without_numpy(exc) from exc
    from brim.profiles.loader import load
    from brim.workloads.formats import read

    found = run(data, read(trace), load(name))
    print(json.dumps(asdict(found)) if json_output else "\n".join(_beside(found)))


@profile_app.command()
def fidelity(
    data: Data,
    trace: Annotated[Path, typer.Option(help="The trace that the RTX PRO 6000 run served.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The page to write; else it is printed.")
    ] = None,
) -> None:
    """Replay every measured run there is, and write how far each figure is off."""
    try:
        from brim.profiling.fidelity import page
    except ImportError as exc:
        raise _without_numpy(exc) from exc
    from brim.workloads.formats import read

    if output is not None:
        refuse_unwritable("--output", output)
    old = output.read_text(encoding="utf-8") if output is not None and output.is_file() else ""
    text = page(data, read(trace), old)
    if output is None:
        print(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"can't write the page to {output}: {exc.strerror}") from exc


@profile_app.command()
def roofline(
    model_config: Annotated[
        str, typer.Option(help="A config.json, its folder, or a size such as llama-3-8b.")
    ],
    gpu: Annotated[str, typer.Option(help="A GPU, such as h100 or l40s.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write, ending in .json.")],
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs that share each layer.")] = 1,
) -> None:
    """Make a profile from data sheets alone. It is analytic, and says so; nothing is measured."""
    from brim.profiling import gpus, models
    from brim.profiling.roofline import roofline as make

    _check_output(output)
    refuse_unwritable("--output", output)
    profile = make(output.stem, models.model_sizes(model_config), gpus.gpu(gpu), tensor_parallel)
    _written(profile, output)


@profile_app.command(context_settings={"allow_extra_args": True})
@takes_settings(MeasureSettings)
def measure(
    settings: MeasureSettings,
    context: typer.Context,
    engine: Annotated[Literal["local", "vllm"], typer.Option("--engine", help="Whose steps.")] = "local",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write [the model's name and .json].")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and smaller steps.")] = False,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="How often each step is timed [7; 5 with --quick].")
    ] = None,
    json_output: Json = False,
) -> None:
    """Measure the steps of a model on this machine, and write the profile that fits them.

    With --engine vllm they are vLLM's, with the flags that its server will have:
    brim profile measure MODEL --engine vllm [-- vLLM's own flags].
    """
    try:
        from brim.profiling.engine_steps import FULL, QUICK
    except ImportError as exc:
        raise _without_numpy(exc) from exc
    from brim.cli.progress import bar
    from brim.profiles.loader import as_json

    if context.args and engine != "vllm":
        raise ConfigError(f"what is {context.args[0]}? Flags after `--` are for --engine vllm")
    path = output or Path(f"{Path(settings.model or 'builtin').resolve().name}.json")
    _check_output(path)
    try:  # before minutes of work
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"can't write {path}: {exc.strerror}; give another --output") from exc
    refuse_unwritable("--output", path)
    grid = QUICK if quick else FULL
    grid = replace(grid, repeats=repeats or grid.repeats)
    steps_of = _of_local(settings, grid) if engine == "local" else _of_vllm(settings, context.args, grid)
    with steps_of as measurement, bar(measurement.num_steps, "Measuring") as done:
        profile = measurement.run(path.stem, done=done)
    path.write_text(as_json(profile), encoding="utf-8")
    print(as_json(profile) if json_output else "\n".join(_measured(profile, path)))


@contextmanager
def _of_local(settings: MeasureSettings, grid: Grid) -> Iterator[Measurement]:
    """The steps of Brim's own engine."""
    from brim.cli.host import open_engine
    from brim.cli.progress import tell
    from brim.profiling.engine_steps import EngineSteps
    from brim.profiling.on_engine import Measurement

    engine, _ = open_engine(settings, tell)
    try:
        steps = EngineSteps(engine)
        yield Measurement.of(steps, grid, settings.max_num_seqs, settings.max_num_batched_tokens)
    finally:
        engine.close()


@contextmanager
def _of_vllm(settings: MeasureSettings, extra: Sequence[str], grid: Grid) -> Iterator[Measurement]:
    """Those of vLLM, whose own limits hold where none are given."""
    from brim.cli.vllm import engine_flags
    from brim.profiling.on_engine import Measurement
    from brim.profiling.vllm_steps import VllmSteps, vllm_engine

    if settings.model is None:
        raise ConfigError("name a model: brim profile measure MODEL --engine vllm [-- vLLM's own flags]")
    with vllm_engine(settings.model, [*engine_flags(settings), *extra]) as engine:
        steps = VllmSteps(engine)
        try:
            yield Measurement.of(steps, grid, steps.max_num_seqs, steps.max_num_batched_tokens)
        finally:
            steps.close()


def _check_output(path: Path) -> None:
    """Raises ConfigError."""
    if path.suffix != ".json":
        raise ConfigError(f"--output {path} must end in .json, so that it can be told from a name")


def _measured(profile: Profile, path: Path) -> list[str]:
    """The errors by kind of step, and what else a reader should know."""
    fit = profile.fit
    assert fit is not None
    line = "{:<34}{:>6}{:>9}{:>9}{:>9}"
    lines = [line.format("error of the fit on", "steps", "mean", "p50", "p95")]

    def row(what: str, errors: Errors) -> str:
        shares = (f"{share:.1%}" for share in (errors.mape, errors.p50, errors.p95))
        return line.format(what, errors.rows, *shares)

    lines += [
        row("steps it was fitted to", fit.fitted),
        row("sizes held back", fit.held_back),
    ]
    lines += [row(f"  {kind}", errors) for kind, errors in fit.by_kind.items()]
    told = [f"largest error: {fit.largest_misfit}", *profile.notes]
    return [*lines, *told, f"{path}: give it as --profile {path}"]


def _without_numpy(exc: ImportError) -> ConfigError:
    return MissingPackages(f"a fit needs numpy and scipy ({exc})", "profiling")


def _beside(found: Replay) -> list[str]:
    """Means in seconds; the second prediction has the host's time, measured in the same run."""
    line = "{:<10}{:>12}{:>12}{:>9}{:>16}{:>9}"
    lines = [line.format("mean s", "measured", "predicted", "error", "with host time", "error")]
    bare, hosted = found.bare.errors(found.measured), found.hosted.errors(found.measured)
    for figure in bare:
        values = (getattr(outcome, figure) for outcome in (found.measured, found.bare, found.hosted))
        measured, predicted, with_host = (f"{value:.4f}" for value in values)
        errors = f"{bare[figure]:+.1%}", f"{hosted[figure]:+.1%}"
        lines.append(line.format(figure, measured, predicted, errors[0], with_host, errors[1]))
    told = f"{1e3 * found.host_seconds:.2f} ms a step"
    return [*lines, f"host time: {told}, the median over the run's seconds that computed no prompt"]


def _written(profile: Profile, path: Path) -> bool:
    from brim.profiles.loader import as_json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(profile), encoding="utf-8")
    error = (
        f"{profile.fit.held_back.mape:.1%} on sizes held back" if profile.fit else "analytic, not measured"
    )
    print(f"{path}: {error}, {profile.target_forward_tokens} tokens a step, {profile.kv_tokens()} KV tokens")
    return True


def _compared(profile: Profile) -> bool:
    from brim.profiling.check import differences

    found = differences(profile)
    print(f"{profile.name}: {'as shipped' if not found else 'differs in ' + ', '.join(found)}")
    return not found


def _summary(profile: Profile) -> dict[str, object]:
    kept = ("name", "gpu", "model", "tensor_parallel", "kind", "target_forward_tokens")
    held_back = asdict(profile.fit.held_back) if profile.fit else None
    figures = {"kv_tokens": profile.kv_tokens(), "held_back": held_back}
    return {name: getattr(profile, name) for name in kept} | figures


def _gpus(profile: Profile) -> str:
    return f"{profile.tensor_parallel} x {profile.gpu}"


def _figures(profile: Profile) -> dict[str, str]:
    from brim.core.estimators.step_time import StepShape, attention_pairs

    def milliseconds(shape: StepShape) -> str:
        return f"{1e3 * profile.step_time.seconds(shape):.2f} ms"

    figures = {
        "KV cache": f"{profile.kv_tokens()} tokens of {profile.kv_bytes_per_token} bytes",
        "target forward size": f"{profile.target_forward_tokens} tokens",
    }
    if profile.fit:
        figures["error on sizes held back"] = f"{profile.fit.held_back.mape:.1%}"
        figures["largest error"] = profile.fit.largest_misfit
    if profile.error is not None:
        figures["off by, as far as is known"] = f"{profile.error:.1%}"
    if profile.unevenness is not None:
        figures["steps take"] = str(profile.unevenness)
    for batch in (1, 32, 256):
        figures[f"decode step, {batch} x 500 tokens"] = milliseconds(StepShape(batch, 0, batch, 500 * batch))
    for tokens in (512, 2048):
        figures[f"prompt of {tokens} tokens"] = milliseconds(StepShape(tokens, attention_pairs(tokens)))
    return figures
