"""What the operator sets for the HTTP side: `{"brim": {"server": {...}}}`, else the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from brim.batch_api.api import Limits
from brim.core.errors import ConfigError
from brim.plugins.vllm.tiers import TierRules
from brim.wire.target_limits import LEAST_MS, LIMIT_MS

PREFIX = "BRIM_"  # as in `brim serve`


class HttpOptions(BaseModel):
    """The settings of `brim serve` that have a meaning in vLLM's server, under the same names."""

    model_config = ConfigDict(extra="forbid")

    data_folder: str = "brim-data"  # empty: no Files and Batches
    batch_window: int = Field(512, ge=1)
    max_file_mib: int = Field(512, ge=1)
    max_batch_file_mib: int = Field(200, ge=1)
    max_line_mib: int = Field(8, ge=1)
    max_batch_lines: int = Field(50_000, ge=1)
    client_targets: bool = True
    priority_ttft_ms: float | None = Field(None, ge=LEAST_MS, lt=LIMIT_MS)
    priority_tpot_ms: float | None = Field(None, ge=LEAST_MS, lt=LIMIT_MS)
    flex_wait_seconds: float = Field(600.0, gt=0)

    @property
    def folder(self) -> Path | None:
        return Path(self.data_folder) if self.data_folder else None

    @property
    def limits(self) -> Limits:
        return Limits(
            file_bytes=self.max_file_mib << 20,
            batch_file_bytes=self.max_batch_file_mib << 20,
            line_bytes=self.max_line_mib << 20,
            lines=self.max_batch_lines,
        )

    @property
    def tier_rules(self) -> TierRules:
        targets = {"ttft_ms": self.priority_ttft_ms, "tpot_ms": self.priority_tpot_ms}
        return TierRules(
            client_targets=self.client_targets,
            priority_targets={name: value for name, value in targets.items() if value is not None},
            flex_wait_seconds=self.flex_wait_seconds,
        )


def read_options(additional_config: object, environment: Mapping[str, str]) -> HttpOptions:
    """`additional_config` is vLLM's. Raises ConfigError that names the setting."""
    brim = additional_config.get("brim") if isinstance(additional_config, Mapping) else None
    given: Any = brim.get("server") if isinstance(brim, Mapping) else None
    if not isinstance(given, Mapping | None):
        raise ConfigError('additional-config: "server" must be an object, {"brim": {"server": {...}}}')
    values = {
        name: environment[variable]
        for name in HttpOptions.model_fields
        if (variable := PREFIX + name.upper()) in environment
    }
    try:
        return HttpOptions(**(values | dict(given or {})))
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        known = ", ".join(HttpOptions.model_fields)
        raise ConfigError(f"brim.server.{where}: {first['msg']}; the settings are {known}") from exc


def api_keys(args: Any) -> Sequence[str]:
    """The keys that vLLM asks for: its flag goes before its variable."""
    return [key for key in (args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]
