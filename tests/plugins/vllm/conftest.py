"""Tests of Brim inside vLLM. They need vLLM, which has an environment of its own: `make test-vllm`."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm sets it up)")

os.environ.update(
    HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_CPU_KVCACHE_SPACE="1", OMP_NUM_THREADS="1"
)

from tests.plugins.vllm import classes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what vLLM's own imports warn of is not ours
    from tests.plugins.vllm import driver as _driver  # noqa: F401


@pytest.fixture(params=["stock", "brim"])
def scheduler_class(request: pytest.FixtureRequest) -> Any:
    """vLLM's scheduler, for what holds there already, and Brim's."""
    return classes.find(classes.STOCK if request.param == "stock" else classes.BRIM)
