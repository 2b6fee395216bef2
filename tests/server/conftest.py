from collections.abc import Iterator

import openai
import pytest

from tests.server.http_harness import Running, running


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """One server with default options, shared by all tests that leave it as it was."""
    with running() as run:
        yield run


@pytest.fixture(scope="session")
def client(server: Running) -> openai.OpenAI:
    return server.openai()
