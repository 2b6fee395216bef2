"""Three small runs and their event logs, one line for each event.

    python -m tests.golden.regenerate        writes the logs anew; read the difference before keeping it

A log changes only where a decision, an event or the form of a line has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.helpers import OFFLINE, Host, config, lines, request

FOLDER = Path(__file__).parent


def chunks_and_prefix() -> Host:
    """A prompt of three chunks, then one that shares its first two blocks, decoding together."""
    host = Host(config(max_num_batched_tokens=8))
    host.add(request("first", range(17), max_tokens=6))
    for _ in range(3):
        host.step()
    host.add(request("second", [*range(9), 50, 51], max_tokens=3))
    return host.run()


def starvation() -> Host:
    """Two grow until no block is left; the newer one is preempted and recomputed."""
    host = Host()
    host.add(request("older", [1] * 11, max_tokens=9), request("newer", [2] * 11, max_tokens=9))
    return host.run()


def online_over_offline() -> Host:
    """At depth 2: a waiting online request takes blocks from offline ones, and waits until they are free."""
    host = Host(config(policy="priority"), depth=2)
    host.add(request("batch-1", [1] * 10, max_tokens=6, task_class=OFFLINE))
    host.add(request("batch-2", [2] * 10, max_tokens=6, task_class=OFFLINE))
    for _ in range(3):
        host.step()
    host.add(request("user", [3] * 7, max_tokens=4))
    return host.run()


RUNS: dict[str, Callable[[], Host]] = {
    run.__name__: run for run in (chunks_and_prefix, starvation, online_over_offline)
}


def log(name: str) -> bytes:
    return "".join(f"{one}\n" for one in lines(RUNS[name]().events)).encode()


if __name__ == "__main__":
    for name in RUNS:
        (FOLDER / f"{name}.log").write_bytes(log(name))
