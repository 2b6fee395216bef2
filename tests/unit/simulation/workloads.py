"""Random traces and setups for hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st

from brim.core.policies.named import NAMED
from brim.profiles.unevenness import EVEN, Unevenness
from brim.simulation.run import Setup
from brim.simulation.targets import Targets
from tests.helpers import MS, OFFLINE, ONLINE
from tests.unit.simulation.scenarios import asked, machine, setup, step_time, trace

POLICIES = sorted(NAMED)
REQUESTS = st.lists(
    st.builds(
        asked,
        at_ms=st.integers(0, 300) | st.floats(0, 300, width=32),
        prompt=st.integers(0, 20),
        output=st.integers(0, 30),
        task_class=st.sampled_from([ONLINE, ONLINE, OFFLINE]),
        deadline_s=st.none() | st.floats(0.01, 0.5),
        block_ids=st.sampled_from([(), (1,), (1, 2), (1, 2, 3), (1, 4), (5, 6)]),
    ),
    min_size=1,
    max_size=12,
)
TRACES = st.builds(lambda requests: trace(*requests, block_tokens=8), REQUESTS)
MODELS = st.builds(
    step_time,
    constant=st.integers(1, 20),
    per_token=st.integers(0, 2),
    per_pair=st.integers(0, 1),
    per_decode=st.integers(0, 1),
    per_context=st.integers(0, 2),
)
UNEVEN = Unevenness((0.0, 0.5, 0.9, 1.0), (0.6, 1.0, 1.2, 3.0))
MACHINES = st.builds(
    machine,
    MODELS,
    overhead_ps=st.integers(0, 10**9 + 1),
    per_sequence_ps=st.integers(0, 1001),
    unevenness=st.sampled_from([EVEN, EVEN, EVEN, UNEVEN]),
)
TARGETS = st.builds(
    Targets,
    ttft_ns=st.none() | st.integers(10 * MS, 200 * MS),
    tpot_ns=st.none() | st.integers(10 * MS, 50 * MS),
    e2e_ns=st.none() | st.integers(50 * MS, 900 * MS),
    scale=st.none() | st.floats(0.5, 4),
)


@st.composite
def setups(draw: st.DrawFn, depths: Sequence[int] = (1,)) -> Setup:
    """Scarce KV, few seats, small budgets."""
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    settings = {
        "num_blocks": draw(st.integers(28, 60)) // block_size,
        "block_size": block_size,
        "max_model_len": 24,
        "max_num_seqs": draw(st.integers(1, 6)),
        "max_num_batched_tokens": draw(st.sampled_from([8, 13, 64])),
        "enable_prefix_caching": draw(st.booleans()),
        "policy": draw(st.sampled_from(POLICIES)),
    }
    return setup(
        draw(MACHINES),
        settings=settings,
        targets=draw(TARGETS),
        max_output_tokens=draw(st.sampled_from([0, 0, 9])),
        depth=draw(st.sampled_from(depths)),
    )
