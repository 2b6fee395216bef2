"""decide(policy, board, now) -> Decision: the one place where the rules are put together.

It reads a board and returns a value; it changes nothing. Whoever owns the blocks carries the decision
out: `scheduler` on our own pool, an adapter with its host's levers.

    draft          what was decided so far, who would give way
    budget         tokens, seats and blocks that are left
    outputs        blocks for those that generate, and for those that wait to
    prompts        half-done prompts and new requests
    in_time_first  online prompts that can be in time before those that can't
    online_part    the online requests of the step, as far as it is decided
    spare_time     the time that they leave to offline ones
    time_left      what of it is left while the step is put together
    pooled         offline requests from the pool
"""

from __future__ import annotations

from brim.core.deciding.draft import Draft
from brim.core.deciding.outputs import feed_the_starved, grant_the_parked, unblock
from brim.core.deciding.pooled import add_from_pool
from brim.core.deciding.prompts import fill
from brim.core.deciding.spare_time import turn_to_offline
from brim.core.decision import Board, Decision
from brim.core.policy import Policy


def decide(policy: Policy, board: Board, now_ns: int) -> Decision:
    """The decision for one step, starting at `now_ns`."""
    draft = Draft(policy, board, now_ns)
    feed_the_starved(draft)
    grant_the_parked(draft)
    fill(draft)
    turn_to_offline(draft)
    add_from_pool(draft)
    unblock(draft)
    return draft.decision()
