"""Which schedulers the tests are about."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

STOCK = "vllm.v1.core.sched.async_scheduler:AsyncScheduler"
BRIM = os.environ.get("BRIM_VLLM_SCHEDULER", "brim.plugins.vllm.scheduler:BrimScheduler")
"""The class under test as `module:Class`; the environment may name another one."""


def find(path: str) -> type:
    """The class at `module:Class`."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


@contextmanager
def async_on_cpu() -> Iterator[None]:
    """Inside it vLLM lets a CPU schedule asynchronously: its platform turns that off, a GPU's does not."""
    from vllm.platforms.cpu import CpuPlatform

    stock = CpuPlatform.check_and_update_config

    def keep_async(vllm_config: Any) -> None:
        asked = vllm_config.scheduler_config.async_scheduling
        stock(vllm_config)
        vllm_config.scheduler_config.async_scheduling = asked

    with patch.object(CpuPlatform, "check_and_update_config", staticmethod(keep_async)):
        yield
