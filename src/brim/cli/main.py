"""The `brim` command. Each command loads what it needs only when it runs, so that help is there at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

import brim
from brim.cli import flags
from brim.cli.profile import profile_app
from brim.cli.reproduce import reproduce_app
from brim.cli.settings import RunBatchSettings, ServeSettings, read
from brim.cli.simulate import compare_command, simulate_command
from brim.cli.trace import trace_app
from brim.cli.train_lengths import train_lengths
from brim.core.errors import BrimError

app = typer.Typer(
    help="Interactive and batch LLM traffic on the same GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(trace_app, name="trace")
profile_app.command("train-lengths")(train_lengths)
app.add_typer(profile_app, name="profile")
app.add_typer(reproduce_app, name="reproduce")
app.command("simulate")(simulate_command)
app.command("compare")(compare_command)
SOME_FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130


@app.command()
def serve(
    model: flags.Model = None,
    host: flags.Host = None,
    port: flags.Port = None,
    api_key: flags.ApiKey = None,
    served_model_name: flags.ServedModelName = None,
    policy: flags.PolicyName = None,
    dtype: flags.Dtype = None,
    device: flags.Device = None,
    threads: flags.Threads = None,
    kv_tokens: flags.KvTokens = None,
    block_size: flags.BlockSize = None,
    max_model_len: flags.MaxModelLen = None,
    max_num_seqs: flags.MaxNumSeqs = None,
    max_num_batched_tokens: flags.MaxNumBatchedTokens = None,
    max_prefill_chunk_tokens: flags.MaxPrefillChunkTokens = None,
    enable_prefix_caching: flags.EnablePrefixCaching = None,
    seed: flags.Seed = None,
    target_forward_tokens: flags.TargetForwardTokens = None,
    prompt_floor_tokens: flags.PromptFloorTokens = None,
    reserve_share: flags.ReserveShare = None,
    length_padding: flags.LengthPadding = None,
    loan_buffer_tokens: flags.LoanBufferTokens = None,
    length_predictor: flags.LengthPredictor = None,
    record_lengths: flags.RecordLengths = None,
    ttft_ms: flags.TtftMs = None,
    tpot_ms: flags.TpotMs = None,
    priority_ttft_ms: flags.PriorityTtftMs = None,
    priority_tpot_ms: flags.PriorityTpotMs = None,
    data_folder: flags.DataFolder = None,
    batch_window: flags.BatchWindow = None,
    max_queued_online: flags.MaxQueuedOnline = None,
    flex_wait_seconds: flags.FlexWaitSeconds = None,
    max_body_mib: flags.MaxBodyMib = None,
    guard_metrics: flags.GuardMetrics = None,
    shutdown_timeout_seconds: flags.ShutdownTimeoutSeconds = None,
    log_level: flags.LogLevel = None,
    config: flags.Config = None,
    json_output: flags.Json = False,
) -> None:
    """Serve a model with OpenAI's API: chat, completions, files and batches.

    Every setting can also be given as an environment variable (BRIM_PORT=8001) or in the YAML file of
    --config (port: 8001); the flag wins over the environment, and that over the file.
    """
    given = dict(locals())
    config, json_output = given.pop("config"), given.pop("json_output")
    settings = read(ServeSettings, given, config)
    from brim.cli.serve import serve as run

    run(settings, as_json=json_output)


@app.command("run-batch")
def run_batch(
    input_file: Annotated[Path, typer.Option("-i", "--input", help="JSONL in the Batch API's input form.")],
    output_file: Annotated[
        Path, typer.Option("-o", "--output", help="JSONL in the Batch API's output form.")
    ],
    model: flags.Model = None,
    served_model_name: flags.ServedModelName = None,
    policy: flags.PolicyName = None,
    dtype: flags.Dtype = None,
    device: flags.Device = None,
    threads: flags.Threads = None,
    kv_tokens: flags.KvTokens = None,
    block_size: flags.BlockSize = None,
    max_model_len: flags.MaxModelLen = None,
    max_num_seqs: flags.MaxNumSeqs = None,
    max_num_batched_tokens: flags.MaxNumBatchedTokens = None,
    max_prefill_chunk_tokens: flags.MaxPrefillChunkTokens = None,
    enable_prefix_caching: flags.EnablePrefixCaching = None,
    seed: flags.Seed = None,
    target_forward_tokens: flags.TargetForwardTokens = None,
    prompt_floor_tokens: flags.PromptFloorTokens = None,
    reserve_share: flags.ReserveShare = None,
    length_padding: flags.LengthPadding = None,
    loan_buffer_tokens: flags.LoanBufferTokens = None,
    length_predictor: flags.LengthPredictor = None,
    record_lengths: flags.RecordLengths = None,
    batch_window: flags.BatchWindow = None,
    config: flags.Config = None,
    json_output: flags.Json = False,
) -> None:
    """Answer a batch file without a server. Exit status 1 when some of its lines failed.

    Stopped in the middle, the same command goes on where it was.
    """
    given = dict(locals())
    source, target = given.pop("input_file"), given.pop("output_file")
    config, json_output = given.pop("config"), given.pop("json_output")
    settings = read(RunBatchSettings, given, config)
    from brim.cli.run_batch import run_batch as run

    summary = run(settings, source, target)
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
def version() -> None:
    """Print the version."""
    print(brim.__version__)


def main() -> None:
    try:
        app()
    except BrimError as exc:
        print(f"brim: {exc}", file=sys.stderr)
        sys.exit(WRONG_USE)
    except KeyboardInterrupt:
        print("brim: stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
