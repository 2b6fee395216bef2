"""Who waits where."""

import pytest

from brim.core.kvcache.block_pool import BlockPool
from brim.core.kvcache.manager import KVCacheManager
from brim.core.offline.pool import OfflinePool
from brim.core.policies.ordering import OnlineFirst
from brim.core.queues import Queues
from tests.helpers import OFFLINE, ONLINE, request, state


def cache() -> KVCacheManager:
    return KVCacheManager(BlockPool(7), 4)


def both():
    return state(request("a"), 0), state(request("b", 9, task_class=OFFLINE), 1)


def test_without_a_pool_all_wait_in_one_queue():
    queues, kv, (online, offline) = Queues(OnlineFirst(), None), cache(), both()
    for one in (offline, online):
        queues.push(one, kv, 0)
    assert list(queues.waiting) == [online, offline]
    assert (len(queues), queues.count(ONLINE), queues.count(OFFLINE)) == (2, 1, 1)


def test_offline_waits_in_the_pool_and_keeps_no_hashes():
    queues, kv, (online, offline) = Queues(OnlineFirst(), OfflinePool()), cache(), both()
    for one in (offline, online):
        queues.push(one, kv, 0)
    assert list(queues.waiting) == [online]
    assert queues.pool is not None
    assert list(queues.pool) == [offline]
    assert (len(queues), queues.count(ONLINE), queues.count(OFFLINE)) == (2, 1, 1)
    assert online in queues
    assert offline in queues
    assert not kv._contents
    queues.check()


@pytest.mark.parametrize("pool", [None, OfflinePool()])
def test_who_leaves_waits_no_more_and_leaves_once(pool):
    queues, kv, waiting = Queues(OnlineFirst(), pool), cache(), both()
    for one in waiting:
        queues.push(one, kv, 0)
    for one in waiting:
        queues.remove(one)
        assert one not in queues
        with pytest.raises(KeyError):
            queues.remove(one)
    assert len(queues) == 0
