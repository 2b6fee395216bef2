"""Five small runs and their event logs, one line for each event.

    python -m tests.golden.regenerate        writes the logs anew; read the difference before keeping it

A log changes only where a decision, an event or the form of a line has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from brim.core.policies.named import named
from tests.helpers import OFFLINE, Foretold, Host, config, lines, request

FOLDER = Path(__file__).parent
EXACT = {"reserve_share": 0.0, "length_padding": 0.0}


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


def pipelining() -> Host:
    """Two guests in the promise of a host, one after the other has left; a third outgrows its loan.

    It takes what is left, waits with its KV kept, and gives way when the host gets there.
    """
    settings = config(
        policy="econoserve", num_blocks=16, loan_buffer_tokens=2, prompt_floor_tokens=8, **EXACT
    )
    lengths = {"host": 44, "guest": 16, "next": 8, "grows": 4}
    host = Host(settings, policy=named(settings, Foretold(lengths)))
    host.add(request("host", [1] * 4, max_tokens=44))
    for _ in range(2):
        host.step()
    host.add(request("guest", [2] * 4, max_tokens=16))
    while "guest" not in host.finish_reasons():
        host.step()
    host.add(request("next", [3] * 4, max_tokens=8), request("grows", [4] * 4, max_tokens=20))
    return host.run()


def time_synced_groups() -> Host:
    """Two pairs of answers of one length, arriving in turns: each pair starts and ends together."""
    limits = {"num_blocks": 32, "block_size": 2, "prompt_floor_tokens": 8}
    settings = config(policy="econoserve-sd", **limits, **EXACT)
    lengths = {"long-1": 20, "short-1": 12, "long-2": 20, "short-2": 12}
    host = Host(settings, policy=named(settings, Foretold(lengths)))
    for seq, (name, tokens) in enumerate(lengths.items()):
        host.add(request(name, [seq] * 2, max_tokens=tokens))
    return host.run()


RUNS: dict[str, Callable[[], Host]] = {
    run.__name__: run
    for run in (chunks_and_prefix, starvation, online_over_offline, pipelining, time_synced_groups)
}


def log(name: str) -> bytes:
    return "".join(f"{one}\n" for one in lines(RUNS[name]().events)).encode()


if __name__ == "__main__":
    for name in RUNS:
        (FOLDER / f"{name}.log").write_bytes(log(name))
