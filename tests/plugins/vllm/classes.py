"""The schedulers that the tests are about, and asynchronous scheduling on a CPU."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

STOCK = "vllm.v1.core.sched.async_scheduler:AsyncScheduler"
STOCK_SYNC = "vllm.v1.core.sched.scheduler:Scheduler"
BRIM = "brim.plugins.vllm:BrimScheduler"


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
