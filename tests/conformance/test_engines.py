"""Every engine against the one suite."""

from __future__ import annotations

from functools import cache

import pytest

from brim.engines.base import Engine
from brim.engines.scripted import ScriptedEngine
from tests.conformance.suite import EngineConformance, Factory
from tests.helpers import Host, config, request, script

CHECKS = pytest.mark.parametrize("check", EngineConformance.CHECKS)


@CHECKS
@pytest.mark.parametrize("depth", [1, 2])
def test_the_scripted_engine(depth: int, check: str):
    def make(num_blocks: int, block_size: int) -> Engine:
        return ScriptedEngine(num_blocks, block_size, depth=depth, script=script)

    getattr(EngineConformance(make), check)()


@pytest.fixture(scope="module")
def local_factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """Makes local engines with the built-in model, whose files are written once."""
    torch = pytest.importorskip(
        "torch", reason="the local engine is not installed (pip install 'brim[local]')"
    )
    from brim.engines.local.load import load

    torch.set_num_threads(1)  # steps of a few tokens: threads that wait for each other take seconds
    folder = tmp_path_factory.mktemp("builtin")
    on_cpu = {"device": "cpu", "dtype": "float32", "cache_dir": folder}
    return lambda num_blocks, block_size: load(None, num_blocks=num_blocks, block_size=block_size, **on_cpu)[
        0
    ]


@pytest.fixture(scope="module")
def local(local_factory: Factory) -> EngineConformance:
    return EngineConformance(cache(local_factory), block_size=4)


@pytest.mark.parametrize("check", [name for name in EngineConformance.CHECKS if name != "close"])
def test_the_local_engine(local: EngineConformance, check: str):
    getattr(local, check)()


def test_the_local_engine_closes(local_factory: Factory):
    EngineConformance(local_factory, block_size=4).close()


@pytest.mark.parametrize("policy", ["vllm", "econoserve-d", "econoserve"])
def test_the_local_engine_says_the_same_under_every_policy(local_factory: Factory, policy: str):
    """Where blocks are scarce, requests are recomputed, parked or lent blocks: never with another token."""

    def outputs(num_blocks: int, policy: str) -> dict[str, list[int]]:
        settings = config(policy=policy, num_blocks=num_blocks, max_num_seqs=6, max_model_len=60)
        host = Host(settings, engine=local_factory(num_blocks, 4))
        prompts = [[(50 * i + j) % 200 for j in range(5 + 3 * i)] for i in range(6)]
        host.add(*(request(f"r{i}", prompt, 30 - 3 * i) for i, prompt in enumerate(prompts)))
        return host.run().outputs

    assert outputs(16, policy) == outputs(100, "vllm")
