"""Flags made from settings, so that a flag's help and default are the setting's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from brim.cli.settings import RunBatchSettings, ServeSettings


def _flag(name: str, *declarations: str) -> Any:
    field = ServeSettings.model_fields.get(name) or RunBatchSettings.model_fields[name]
    default = "" if field.default in (None, []) else f" [{field.default}]"
    return typer.Option(*declarations, help=f"{field.description}{default}", show_default=False)


Model = Annotated[str | None, typer.Argument(help=ServeSettings.model_fields["model"].description)]
Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings by name.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, for programs.")]

ServedModelName = Annotated[str | None, _flag("served_model_name")]
Dtype = Annotated[str | None, _flag("dtype")]
Device = Annotated[str | None, _flag("device")]
KvTokens = Annotated[int | None, _flag("kv_tokens")]
BlockSize = Annotated[int | None, _flag("block_size")]
MaxModelLen = Annotated[int | None, _flag("max_model_len")]
Seed = Annotated[int | None, _flag("seed")]
Threads = Annotated[int | None, _flag("threads")]
PolicyName = Annotated[str | None, _flag("policy")]
MaxNumSeqs = Annotated[int | None, _flag("max_num_seqs")]
MaxNumBatchedTokens = Annotated[int | None, _flag("max_num_batched_tokens")]
MaxPrefillChunkTokens = Annotated[int | None, _flag("max_prefill_chunk_tokens")]
EnablePrefixCaching = Annotated[
    bool | None, _flag("enable_prefix_caching", "--enable-prefix-caching/--no-enable-prefix-caching")
]
TargetForwardTokens = Annotated[int | None, _flag("target_forward_tokens")]
PromptFloorTokens = Annotated[int | None, _flag("prompt_floor_tokens")]
ReserveShare = Annotated[float | None, _flag("reserve_share")]
LengthPadding = Annotated[float | None, _flag("length_padding")]
LoanBufferTokens = Annotated[int | None, _flag("loan_buffer_tokens")]
LengthPredictor = Annotated[str | None, _flag("length_predictor")]
RecordLengths = Annotated[Path | None, _flag("record_lengths")]
BatchWindow = Annotated[int | None, _flag("batch_window")]

Host = Annotated[str | None, _flag("host")]
Port = Annotated[int | None, _flag("port")]
ApiKey = Annotated[list[str] | None, _flag("api_key")]
GuardMetrics = Annotated[bool | None, _flag("guard_metrics", "--guard-metrics/--no-guard-metrics")]
DataFolder = Annotated[Path | None, _flag("data_folder")]
MaxQueuedOnline = Annotated[int | None, _flag("max_queued_online")]
TtftMs = Annotated[float | None, _flag("ttft_ms")]
TpotMs = Annotated[float | None, _flag("tpot_ms")]
PriorityTtftMs = Annotated[float | None, _flag("priority_ttft_ms")]
PriorityTpotMs = Annotated[float | None, _flag("priority_tpot_ms")]
FlexWaitSeconds = Annotated[float | None, _flag("flex_wait_seconds")]
MaxBodyMib = Annotated[int | None, _flag("max_body_mib")]
ShutdownTimeoutSeconds = Annotated[float | None, _flag("shutdown_timeout_seconds")]
LogLevel = Annotated[str | None, _flag("log_level")]
