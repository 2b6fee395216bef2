"""The `brim` command. Each command loads what it needs only when it runs, so that help is there at once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

import brim
from brim.cli.flags import Json, takes_settings
from brim.cli.from_journal import from_journal
from brim.cli.plan import plan_command
from brim.cli.profile import profile_app
from brim.cli.profile_check import check_command
from brim.cli.reproduce import reproduce_app
from brim.cli.settings import RunBatchSettings, ServeSettings
from brim.cli.simulate import compare_command, simulate_command
from brim.cli.trace import trace_app
from brim.cli.train_lengths import train_lengths
from brim.core.errors import BrimError, ConfigError, EngineDead

app = typer.Typer(
    help="Interactive and batch LLM traffic on the same GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(trace_app, name="trace")
profile_app.command("train-lengths")(train_lengths)
profile_app.command("check")(check_command)
profile_app.command("from-journal")(from_journal)
app.add_typer(profile_app, name="profile")
app.add_typer(reproduce_app, name="reproduce")
app.command("simulate")(simulate_command)
app.command("compare")(compare_command)
app.command("plan")(plan_command)
Engine = Annotated[
    Literal["local", "vllm"], typer.Option("--engine", help="Brim's own, or vLLM's server with Brim inside.")
]
SOME_FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130


@app.command(context_settings={"allow_extra_args": True})
@takes_settings(ServeSettings)
def serve(
    settings: ServeSettings, context: typer.Context, engine: Engine = "local", json_output: Json = False
) -> None:
    """Serve a model with OpenAI's API: chat, completions, files and batches.

    Every setting can also be given as an environment variable (BRIM_PORT=8001) or in the YAML file of
    --config (port: 8001); the flag wins over the environment, and that over the file.

    With --engine vllm it prints and becomes vLLM's own server with Brim inside:
    brim serve MODEL --engine vllm [-- vLLM's own flags].
    """
    if engine == "vllm":
        from brim.cli.vllm import serve as become_vllm

        become_vllm(settings, context.args, as_json=json_output)
    elif context.args:
        raise ConfigError(f"what is {context.args[0]}? Flags after `--` are for --engine vllm")
    else:
        from brim.cli.serve import serve as run

        run(settings, as_json=json_output)


@app.command("run-batch")
@takes_settings(RunBatchSettings)
def run_batch(
    settings: RunBatchSettings,
    input_file: Annotated[Path, typer.Option("-i", "--input", help="JSONL in the Batch API's input form.")],
    output_file: Annotated[
        Path, typer.Option("-o", "--output", help="JSONL in the Batch API's output form.")
    ],
    json_output: Json = False,
) -> None:
    """Answer a batch file without a server. Exit status 1 when some of its lines failed.

    Stopped in the middle, the same command goes on where it was.
    """
    from brim.cli.run_batch import run_batch as run

    summary = run(settings, input_file, output_file)
    if json_output:
        print(json.dumps(summary))
    else:
        print(
            f"{summary['completed']} lines answered, {summary['failed']} failed, "
            f"{summary['output_tokens']} tokens in {summary['seconds']} s: {summary['output']}"
        )
        if summary["note"]:
            print(f"note: {summary['note']}")
    if summary["failed"]:
        raise typer.Exit(SOME_FAILED)


@app.command()
def replay(
    journal: Annotated[
        Path, typer.Argument(help="What a scheduler wrote: decision_log of Brim's settings.", exists=True)
    ],
    json_output: Json = False,
) -> None:
    """Take the decisions of a journal again, and say where one comes out otherwise: exit status 1."""
    from brim.plugins.replay import replay as run

    found = run(journal)
    if json_output:
        print(json.dumps(found._asdict()))
    else:
        outcome = found.difference or "every decision came out the same"
        print(f"{found.calls} calls, {found.steps} steps: {outcome}")
    if found.difference is not None:
        raise typer.Exit(SOME_FAILED)


@app.command()
def version() -> None:
    """Print the version."""
    print(brim.__version__)


def main() -> None:
    try:
        app()
    except EngineDead as exc:
        print(f"brim: {exc}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(WRONG_USE)  # the interpreter's own end may wait for a device that hangs
    except BrimError as exc:
        print(f"brim: {exc}", file=sys.stderr)
        sys.exit(WRONG_USE)
    except KeyboardInterrupt:
        print("brim: stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
