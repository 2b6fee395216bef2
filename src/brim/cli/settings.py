"""Every setting of the commands: its name, default and help, once.

A value is taken from, first found first: the flag, the environment (`BRIM_` + name), the YAML file given
by `--config`, the default. A key that is not a setting is refused, wherever it stands.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.wire.target_limits import LEAST_MS, LIMIT_MS

log = logging.getLogger("brim")
PREFIX = "BRIM_"
# What Kubernetes tells every pod beside a Service named `brim` or `brim-...`, as name=value.
_OF_KUBERNETES = re.compile(
    r"BRIM_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|BRIM_(\w+_)?PORT=(tcp|udp|sctp)://.*",
    re.DOTALL,
)
_CORE = SchedulerConfig.__dataclass_fields__  # the core's defaults hold here too


def _core_default(name: str) -> Any:
    return _CORE[name].default


def _comma_separated(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _target(description: str) -> Any:
    return Field(None, ge=LEAST_MS, lt=LIMIT_MS, description=description)


class ModelSettings(BaseModel):
    """The model and its engine."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    model: str | None = Field(
        None,
        description="Folder or Hugging Face id; without one, a small built-in model with random weights.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format; auto: bfloat16 where the device computes in it, else float32."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    kv_tokens: int | None = Field(
        None, ge=1, description="Size of the KV cache in tokens; else what memory allows."
    )
    block_size: int = Field(
        _core_default("block_size"), ge=1, description="Tokens in a block of the KV cache."
    )
    max_model_len: int | None = Field(
        None, ge=2, description="Most tokens of prompt and output; else the model's."
    )
    seed: int = Field(0, ge=0, description="Decides the draws of requests that bring no seed.")
    threads: int | None = Field(None, ge=1, description="CPU threads of the model; else one a core.")


class EngineSettings(ModelSettings):
    """The model, its engine and its scheduler."""

    served_model_name: str | None = Field(None, description="The name clients use; else the model's own.")
    policy: str = Field(
        _core_default("policy"),
        description="The scheduler: brim, vllm, econoserve, echo ... (docs/policies.md).",
    )
    max_num_seqs: int = Field(_core_default("max_num_seqs"), ge=1, description="Most requests in one step.")
    max_num_batched_tokens: int = Field(
        _core_default("max_num_batched_tokens"), ge=1, description="Most tokens in one step."
    )
    max_prefill_chunk_tokens: int = Field(
        _core_default("max_prefill_chunk_tokens"),
        ge=0,
        description="Most prompt tokens of one request in a step; 0: no limit.",
    )
    enable_prefix_caching: bool = Field(
        _core_default("enable_prefix_caching"), description="Reuse the KV of equal prompt beginnings."
    )
    target_forward_tokens: int = Field(
        _core_default("target_forward_tokens"),
        ge=0,
        description="Tokens a step to which EconoServe fills prompts; 0: max_num_batched_tokens.",
    )
    prompt_floor_tokens: int = Field(
        _core_default("prompt_floor_tokens"),
        ge=0,
        description="KV cache that outputs leave to prompts; 0: a quarter of target_forward_tokens, "
        "at most 1 % of the cache.",
    )
    reserve_share: float = Field(
        _core_default("reserve_share"),
        ge=0,
        lt=0.5,
        description="Share of the KV cache kept for answers that grow longer than predicted.",
    )
    length_padding: float = Field(
        _core_default("length_padding"), ge=0, description="Share added to every predicted answer length."
    )
    loan_buffer_tokens: int = Field(
        _core_default("loan_buffer_tokens"),
        ge=0,
        description="Steps that a borrower must be done before its lender needs the blocks.",
    )
    offline_step_tokens: int = Field(
        _core_default("offline_step_tokens"),
        ge=0,
        description="Most tokens of offline requests in a step, under the policy bs; 0: no limit.",
    )
    step_limit_ms: float = Field(
        _core_default("step_limit_ms"),
        ge=0,
        description="Most that a step with offline requests may take, under the policy hygen; 0: 50.",
    )
    slack_share: float = Field(
        _core_default("slack_share"),
        ge=0,
        le=1,
        description="Share of the time that online requests leave, for offline ones: brim, echo, bs-e.",
    )
    offline_score: Literal["rate", "difference"] = Field(
        _core_default("offline_score"),
        description="How offline requests are chosen for a step: gain over its time, or gain less time.",
    )
    profile: str | None = Field(
        None,
        description="Step times to start from, a name or a .json file; else learnt from the first steps.",
    )
    length_predictor: str = Field(
        "history",
        description="How answer lengths are predicted: history, limit (max_tokens), or a model file.",
    )
    record_lengths: Path | None = Field(
        None, description="File to which each answer's length and features are appended, without its text."
    )


class ServeSettings(EngineSettings):
    """The server."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0: any free one.")
    api_key: Annotated[list[str], BeforeValidator(_comma_separated)] = Field(
        [], description="A key clients must send; may be given several times."
    )
    guard_metrics: bool = Field(False, description="Ask for the key on /metrics too.")
    data_folder: Path = Field(Path("brim-data"), description="Where files and batch jobs are kept.")
    max_queued_online: int = Field(1024, ge=1, description="With more waiting, new online requests get 503.")
    flex_wait_seconds: float = Field(
        600.0, gt=0, description="A flex request without a token by then gets 429."
    )
    ttft_ms: float | None = _target(
        "TTFT target of online requests that bring none; kept for the first of them too."
    )
    tpot_ms: float | None = _target("TPOT target of online requests that bring none.")
    itl_ms: float | None = _target(
        "Target for every gap between two tokens, of online requests that bring none."
    )
    priority_ttft_ms: float | None = _target("The same for tier `priority`; else ttft_ms.")
    priority_tpot_ms: float | None = _target("The same for tier `priority`; else tpot_ms.")
    client_targets: bool = Field(True, description="Take the targets that clients send in headers.")
    batch_window: int = Field(512, ge=1, description="Most batch lines with the scheduler at a time.")
    max_body_mib: int = Field(32, ge=1, description="Largest JSON body, MiB.")
    keep_alive_seconds: int = Field(
        75, ge=1, description="How long an idle connection stays open: longer than a load balancer keeps it."
    )
    stuck_step_seconds: float = Field(
        300.0, gt=0, description="With a step that takes longer, /health answers 503."
    )
    shutdown_timeout_seconds: float = Field(
        30.0, ge=0, description="How long answers may finish after SIGTERM."
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="What is logged."
    )


class RunBatchSettings(EngineSettings):
    """A batch without a server."""

    batch_window: int = Field(512, ge=1, description="Most lines with the scheduler at a time.")


class MeasureSettings(ModelSettings):
    """What `brim profile measure` runs."""

    max_num_seqs: int = Field(_core_default("max_num_seqs"), ge=8, description="Most requests in one step.")
    max_num_batched_tokens: int = Field(
        _core_default("max_num_batched_tokens"), ge=136, description="Most tokens in one step."
    )


S = TypeVar("S", bound=ModelSettings)


def read(kind: type[S], flags: Mapping[str, Any], config: Path | None) -> S:
    """The settings of a command; `flags` that are None were not given.

    Raises ConfigError that names the key, where it stood, and what would be right.
    """
    sources = {
        f"the file {config}": _from_file(config),
        "the environment": _from_environment(),
        "the flags": {name: value for name, value in flags.items() if value is not None},
    }
    for place, values in sources.items():
        _refuse_unknown(values, place)
    merged = {name: value for values in sources.values() for name, value in values.items()}
    try:
        return kind(**{name: value for name, value in merged.items() if name in kind.model_fields})
    except ValidationError as exc:
        first = exc.errors()[0]
        name = str(first["loc"][0])
        place = next(place for place in reversed(sources) if name in sources[place])
        raise ConfigError(f"{name} = {merged[name]!r} (from {place}): {first['msg']}") from exc


def _from_file(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        values = yaml.safe_load(config.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError(f"can't read the configuration file {config}: {exc}") from exc
    if not isinstance(values, dict | None):
        raise ConfigError(f"the configuration file {config} must hold `name: value` lines")
    return {str(name).replace("-", "_"): value for name, value in (values or {}).items()}


def _from_environment() -> dict[str, Any]:
    found = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    foreign = [name for name, value in found.items() if _OF_KUBERNETES.fullmatch(f"{name}={value}")]
    if foreign:
        log.warning(
            "left out %s: Kubernetes sets these for a Service named brim; "
            "`enableServiceLinks: false` in the pod's spec stops that",
            ", ".join(foreign),
        )
    return {name.removeprefix(PREFIX).lower(): found[name] for name in found.keys() - foreign}


def _refuse_unknown(values: Mapping[str, Any], place: str) -> None:
    """A key of another command passes: one file and one environment serve them all."""
    known = {name for kind in (ServeSettings, RunBatchSettings) for name in kind.model_fields}
    for name in values.keys() - known:
        close = get_close_matches(name, known, 1)
        hint = f": did you mean {close[0]}?" if close else f"; the settings are {', '.join(sorted(known))}"
        raise ConfigError(f"{place} has {name}, which is not a setting{hint}")
