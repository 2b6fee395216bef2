"""What offline requests may hold: it never grows while online requests take more."""

from hypothesis import given
from hypothesis import strategies as st

from brim.core.estimators.online_demand import OnlineDemand
from brim.core.kvcache.headroom import Headroom

S = 1_000_000_000


def headroom(*peaks: int) -> Headroom:
    """100 blocks, online peaks of the last seconds."""
    demand = OnlineDemand(4.0, 4)
    for second, blocks in enumerate(peaks):
        demand.observe(second * S, blocks)
        demand.observe(second * S + S - 1, 0)
    demand.observe(len(peaks) * S, 0)
    return Headroom(100, demand)


def test_room_is_kept_for_those_who_are_expected():
    kept = headroom(20, 20)
    assert [kept.offline_limit(online) for online in (0, 20, 30, 100, 120)] == [80, 80, 70, 0, 0]


def test_a_forecast_beyond_the_cache_leaves_nothing():
    assert headroom(100, 0, 100, 0).offline_limit(0) == 0


@given(
    before=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    arriving=st.lists(st.integers(1, 15), min_size=2, max_size=12),
)
def test_as_a_burst_arrives_the_limit_does_not_grow(before, arriving):
    """Each second's peak is above the one before, while older peaks leave the window."""
    kept, online, limits = headroom(*before), before[-1], []
    for second, more in enumerate(arriving, len(before)):
        online += more
        for moment_ns in (second * S, second * S + S // 2):
            kept.demand.observe(moment_ns, online)
            limits.append(kept.offline_limit(online))
    assert limits == sorted(limits, reverse=True)
