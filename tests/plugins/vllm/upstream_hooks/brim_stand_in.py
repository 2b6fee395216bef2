"""A pytest plugin that puts the class named by BRIM_STAND_IN in the place of vLLM's schedulers.

It has to be loaded before vLLM's test modules, which import the two names: `pytest -p brim_stand_in`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from vllm.v1.core.sched import async_scheduler, scheduler


def find(path: str) -> type:
    """The class at `module:Class`."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def sync_twin(cls: type) -> type:
    """The class as it is when derived from `Scheduler` instead of `AsyncScheduler`.

    `AsyncScheduler` itself fails a dozen tests of `Scheduler`, so it can't stand in for it. The twin comes
    from the same file, read anew while `AsyncScheduler` is another name for `Scheduler`.
    """
    spec = importlib.util.find_spec(cls.__module__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.object(async_scheduler, "AsyncScheduler", scheduler.Scheduler):
        spec.loader.exec_module(module)
    return getattr(module, cls.__name__)


if path := os.environ.get("BRIM_STAND_IN"):
    stand_in = find(path)
    scheduler.Scheduler, async_scheduler.AsyncScheduler = sync_twin(stand_in), stand_in


@pytest.fixture
def caplog_vllm(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The one fixture of vLLM's own conftest that its scheduler tests ask for."""
    logger = logging.getLogger("vllm")
    with patch.object(logger, "propagate", True), caplog.at_level(logging.INFO):
        yield caplog
