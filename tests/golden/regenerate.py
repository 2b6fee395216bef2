"""Six small runs and their event logs, one line for each event.

    python -m tests.golden.regenerate        writes the logs anew; read the difference before keeping it

A log changes only where a decision, an event or the form of a line has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from brim.core.estimators.step_time import StepTime
from brim.core.policies.named import named
from brim.core.request import SLO
from tests.helpers import MS, OFFLINE, Foretold, Host, config, lines, request
from tests.timed import TimedHost, informed

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


def echo_over_online() -> Host:
    """A user's answer with documents read beside it in chunks, as long as a step may be; then a burst.

    The first question about a document is read in parts, the others find it in the cache. The burst takes
    blocks from the offline request that loses least; it ends after the burst.
    """
    settings = config(policy="echo", num_blocks=24, max_num_batched_tokens=32)
    step_time = StepTime(4 * 10**9, 5 * 10**8, (), 0, 0, 0)
    host = TimedHost(settings, step_time, policy=informed(settings, step_time))
    host.add(request("user", [9] * 4, max_tokens=12, slo=SLO(ttft_ns=100 * MS, tpot_ns=8 * MS)))
    host.step()
    for at in range(3):
        document = [*range(30), 90 + at]
        host.add(request(f"ask-{at}", document, max_tokens=6, task_class=OFFLINE, arrival_ns=at))
    for _ in range(9):
        host.step()
    for at in range(3):
        slo = SLO(ttft_ns=400 * MS)
        host.add(request(f"burst-{at}", [5 + at] * 20, max_tokens=4, arrival_ns=host.now_ns, slo=slo))
    return host.run()


RUNS: dict[str, Callable[[], Host]] = {
    run.__name__: run
    for run in (
        chunks_and_prefix,
        starvation,
        online_over_offline,
        pipelining,
        time_synced_groups,
        echo_over_online,
    )
}


def log(name: str) -> bytes:
    return "".join(f"{one}\n" for one in lines(RUNS[name]().events)).encode()


if __name__ == "__main__":
    for name in RUNS:
        (FOLDER / f"{name}.log").write_bytes(log(name))
