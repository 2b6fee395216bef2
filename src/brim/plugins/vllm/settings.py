"""What `--additional-config '{"brim": {...}}'` may say to the scheduler; its `server` is in `options`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from typing import Any

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.policies.named import refuse_unknown
from brim.core.request import SLO
from brim.plugins.hosting import MODES, Settings
from brim.wire.target_limits import LEAST_MS, LIMIT_MS, WITHIN

HOSTS = (  # limits that vLLM's own configuration gives
    "num_blocks",
    "block_size",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_prefill_chunk_tokens",
    "enable_prefix_caching",
    "policy",
)
TARGETS = tuple(f.name.removesuffix("_ns") + "_ms" for f in fields(SLO))  # here and in `vllm_xargs`
RULES = tuple(f.name for f in fields(SchedulerConfig) if f.name not in (*HOSTS, *TARGETS))


def read(additional_config: object) -> Settings:
    """Raises ConfigError where `brim` says something unknown."""
    told = additional_config.get("brim", {}) if isinstance(additional_config, Mapping) else {}
    if not isinstance(told, Mapping):
        raise ConfigError(f'additional_config["brim"] must be an object, not {told!r}')
    own = {name: told[name] for name in ("mode", "profile", "decision_log", "strict") if name in told}
    rules = {name: told[name] for name in RULES if name in told}
    policy = told.get("policy")
    if policy == "stock":
        policy, own["mode"] = None, "stock"
    _refuse_unknown(set(told) - set(own) - set(rules) - set(TARGETS) - {"policy", "server"})
    if policy is not None:
        refuse_unknown(policy)
    if own.get("mode", "active") not in MODES:
        raise ConfigError(f"mode must be one of {', '.join(MODES)}, not {own['mode']!r}")
    return Settings(policy, slo=slo_of(told), rules=rules, **own)


def slo_of(told: Mapping[str, Any]) -> SLO:
    """Targets in milliseconds. Raises ConfigError where one is no number between the limits of targets."""
    found = {}
    for name in TARGETS:
        value = told.get(name)
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not LEAST_MS <= value < LIMIT_MS:
            raise ConfigError(f"{name} must be a number of milliseconds {WITHIN}, not {value!r}")
        found[name.removesuffix("_ms") + "_ns"] = round(value * 1e6)
    return SLO(**found)


def with_defaults(slo: SLO, default: SLO) -> SLO:
    """Each target on its own: the default's where `slo` has none."""
    return replace(default, **{name: ns for name, ns in asdict(slo).items() if ns is not None})


def _refuse_unknown(names: set[str]) -> None:
    known = ["policy", "server", "mode", "profile", "decision_log", "strict", *TARGETS, *RULES]
    for name in sorted(names):
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        host = "that is vLLM's own: give it to vllm serve" if name in HOSTS else f"known: {', '.join(known)}"
        raise ConfigError(f'additional_config["brim"] does not know {name!r}: {hint}{host}')
