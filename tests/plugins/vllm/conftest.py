"""Tests of Brim inside vLLM. They need vLLM, which has an environment of its own: `make test-vllm`."""

from __future__ import annotations

import os
import warnings

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm sets it up)")

os.environ.update(
    HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_CPU_KVCACHE_SPACE="1", OMP_NUM_THREADS="1"
)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what vLLM's own imports warn of is not ours
    from tests.plugins.vllm import driver as _driver  # noqa: F401
