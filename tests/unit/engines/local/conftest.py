from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from brim.engines.local import builtin
from brim.engines.local.engine import LocalEngine
from brim.engines.local.load import load
from brim.engines.local.tokenizer import HFTokenizer


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Threads on shared cores are slow, and their order of summation is not fixed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def builtin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builtin.ensure(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def loaded(builtin_folder: Path) -> tuple[LocalEngine, HFTokenizer]:
    return load(str(builtin_folder), dtype="float32", device="cpu", num_blocks=64)


@pytest.fixture(scope="session")
def engine(loaded: tuple[LocalEngine, HFTokenizer]) -> LocalEngine:
    return loaded[0]


@pytest.fixture(scope="session")
def tokenizer(loaded: tuple[LocalEngine, HFTokenizer]) -> HFTokenizer:
    return loaded[1]
