"""`brim serve --engine vllm`: vLLM's own server with Brim inside, started by vLLM's own command."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Any

from brim.cli.settings import ModelSettings, ServeSettings
from brim.core.errors import ConfigError, MissingPackages

SCHEDULER = "brim.plugins.vllm.BrimScheduler"
PLUGIN = "brim"
MODULE = "vllm.entrypoints.openai.api_server"
GROUPS = ("general", "io_processor", "platform", "stat_logger")  # loaded unless they are left out

FLAGS = {
    "served_model_name": "--served-model-name",
    "dtype": "--dtype",
    "block_size": "--block-size",
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "max_prefill_chunk_tokens": "--long-prefill-token-threshold",
    "seed": "--seed",
    "log_level": "--uvicorn-log-level",
}
SCHEDULER_SETTINGS = (
    "policy",
    "target_forward_tokens",
    "prompt_floor_tokens",
    "reserve_share",
    "length_padding",
    "loan_buffer_tokens",
    "offline_step_tokens",
    "step_limit_ms",
    "slack_share",
    "offline_score",
    "profile",
    "ttft_ms",
    "tpot_ms",
    "itl_ms",
)
SERVER_SETTINGS = (
    "data_folder",
    "batch_window",
    "client_targets",
    "priority_ttft_ms",
    "priority_tpot_ms",
    "flex_wait_seconds",
)
_SECRET = ("--api-k", "--hf-t")  # --api-key and --hf-token, which may be given shortened
OTHERS = {  # settings of Brim's own engine and server, and what to give vLLM instead
    "device": "vLLM takes the device that it was built for",
    "kv_tokens": "give `-- --num-gpu-blocks-override N` or `-- --kv-cache-memory-bytes N`",
    "threads": "set OMP_NUM_THREADS",
    "length_predictor": "in vLLM answer lengths are predicted from those that were seen",
    "keep_alive_seconds": "set VLLM_HTTP_TIMEOUT_KEEP_ALIVE",
    "stuck_step_seconds": "set VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS",
    "record_lengths": "it is written by Brim's own server only",
    "guard_metrics": "put a proxy before /metrics",
    "max_queued_online": "give `-- --max-num-queued-reqs N`",
    "max_body_mib": "put a proxy before the server",
}


def serve(settings: ServeSettings, extra: Sequence[str], *, as_json: bool) -> None:
    """Becomes the process of vLLM's server. `extra` are vLLM's own flags. Raises ConfigError."""
    command, environment = vllm_command(settings, extra), {"VLLM_PLUGINS": plugins(os.environ)}
    key = settings.api_key[0] if len(settings.api_key) == 1 else None
    shown = {"command": _without_keys(command), "environment": environment}
    words = [*(f"{name}={value}" for name, value in environment.items()), *shown["command"]]
    print(json.dumps(shown) if as_json else shlex.join(words), flush=True)
    os.execvpe(command[0], command, {**os.environ, **environment, **({"VLLM_API_KEY": key} if key else {})})


def vllm_command(settings: ServeSettings, extra: Sequence[str]) -> list[str]:
    """Program and arguments. Raises ConfigError for what vLLM's server can't be given."""
    if settings.model is None or settings.model.startswith("-"):
        raise ConfigError("name a model first: brim serve MODEL --engine vllm [-- vLLM's own flags]")
    _refuse_others(settings)
    given, rest = _take_additional_config(extra)
    program, headless = _program(settings.model), _names(rest, "--headless")
    if headless and MODULE in program:
        raise ConfigError("--headless is known to the command `vllm` alone: install vLLM under its own name")
    return [
        *program,
        *("--scheduler-cls", SCHEDULER),
        *("--additional-config", json.dumps(_merged(_additional_config(settings), given))),
        *("--host", settings.host, "--port", str(settings.port)),
        *_flags(settings),
        *([] if headless or _names(rest, "--api-server-count") else ["--api-server-count", "1"]),
        *rest,
    ]


def engine_flags(settings: ModelSettings) -> list[str]:
    """What was set of the model and its limits, under vLLM's names. Raises ConfigError for other settings."""
    _refuse_others(settings)
    given = settings.model_dump(mode="json", include=settings.model_fields_set)
    return [part for name, flag in FLAGS.items() if name in given for part in (flag, str(given[name]))]


def plugins(environment: Mapping[str, str]) -> str:
    """VLLM_PLUGINS with Brim's. Unset, it means all but those with HTTP routes, so they are named here."""
    allowed = environment.get("VLLM_PLUGINS")
    if allowed is None:
        names = {each.name for group in GROUPS for each in entry_points(group=f"vllm.{group}_plugins")}
    else:
        names = {name for name in allowed.split(",") if name}
    return ",".join(sorted(names | {PLUGIN}))


def _refuse_others(settings: ModelSettings) -> None:
    for name in OTHERS.keys() & settings.model_fields_set:
        raise ConfigError(f"{name} is a setting of Brim's own engine: {OTHERS[name]}")


def _program(model: str) -> list[str]:
    if importlib.util.find_spec("vllm") is None:
        raise MissingPackages("vLLM is not installed here", "vllm")
    script = Path(sys.executable).with_name("vllm")
    try:
        distribution("vllm")  # builds under another name bring the command, which fails without this one
    except PackageNotFoundError:
        return [sys.executable, "-m", MODULE, "--model", model]
    return (
        [str(script), "serve", model] if script.exists() else [sys.executable, "-m", MODULE, "--model", model]
    )


def _flags(settings: ServeSettings) -> list[str]:
    """What was set, under vLLM's names. vLLM has its own defaults."""
    given, flags = settings.model_dump(mode="json", include=settings.model_fields_set), engine_flags(settings)
    if "shutdown_timeout_seconds" in given:
        flags += ["--shutdown-timeout", str(round(given["shutdown_timeout_seconds"]))]
    if "enable_prefix_caching" in given:
        flags.append(f"--{'' if given['enable_prefix_caching'] else 'no-'}enable-prefix-caching")
    if len(settings.api_key) > 1:  # a single one goes by the environment, which others can't see
        flags += ["--api-key", *settings.api_key]
    return flags


def _additional_config(settings: ServeSettings) -> dict[str, Any]:
    given = settings.model_dump(mode="json", include=settings.model_fields_set)
    scheduler = {name: given[name] for name in SCHEDULER_SETTINGS if name in given}
    server = {name: given[name] for name in SERVER_SETTINGS if name in given}
    return {"brim": scheduler | ({"server": server} if server else {})}


def _take_additional_config(extra: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What the flag among vLLM's own gives, and the others. Raises ConfigError."""
    rest, text = list(extra), "{}"
    for place, word in enumerate(extra):
        flag, equals, value = word.partition("=")
        if _named(flag) == "--additional-config":
            text = value if equals else "".join(extra[place + 1 : place + 2])
            del rest[place : place + (1 if equals else 2)]
            break
    try:
        given = json.loads(text)
    except ValueError as exc:
        raise ConfigError(f"--additional-config must be a JSON object: {exc}") from exc
    if not isinstance(given, dict):
        raise ConfigError(f"--additional-config must be a JSON object, not {text}")
    return given, rest


def _merged(ours: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` goes before `ours`, object by object."""
    both = {
        name: _merged(ours[name], value)
        if isinstance(value, dict) and isinstance(ours.get(name), dict)
        else value
        for name, value in given.items()
    }
    return ours | both


def _names(words: Sequence[str], flag: str) -> bool:
    return any(_named(word.partition("=")[0]) == flag for word in words)


def _named(flag: str) -> str:
    """vLLM takes its flags with either sign between the words."""
    return "--" + flag[2:].replace("_", "-") if flag.startswith("--") else flag


def _without_keys(command: Sequence[str]) -> list[str]:
    """The command as it may be shown, whoever gave the keys in it."""
    shown, secret = [], False
    for word in command:
        flag, equals, _ = word.partition("=")
        if word.startswith("-"):
            secret = _named(flag).startswith(_SECRET)
            shown.append(f"{flag}=..." if secret and equals else word)
        else:
            shown.append("..." if secret else word)
    return shown
