"""Chained hashes of whole blocks, and the longest run of them that is known."""

from hypothesis import given
from hypothesis import strategies as st

from brim.core.kvcache.prefix_index import BlockHash, Evictions, PrefixIndex, Run, extend_hashes


def hashes(tokens: list[int], block_size: int = 4, cache_salt: str = "") -> list[BlockHash]:
    found: list[BlockHash] = []
    extend_hashes(found, tokens, block_size, cache_salt)
    return found


def test_only_whole_blocks_have_a_hash():
    assert [len(hashes([1] * n)) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]


def test_a_hash_covers_every_token_before_its_block():
    one, other = hashes([1, 2, 3, 4, 5, 5, 5, 5]), hashes([9, 2, 3, 4, 5, 5, 5, 5])
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_equal_blocks_at_different_places_have_different_hashes():
    assert len(set(hashes([7] * 12))) == 3


def test_token_borders_are_part_of_the_hash():
    assert hashes([1, 256], 2) != hashes([256, 1], 2)
    assert hashes([0, 1], 2) != hashes([1, 0], 2)


def test_different_salts_share_no_hash():
    plain, a, b = (hashes([1] * 8, cache_salt=salt) for salt in ("", "a", "b"))
    assert not {*plain} & {*a}
    assert not {*a} & {*b}


def test_hashes_grow_with_the_tokens_as_if_made_at_once():
    found: list[BlockHash] = []
    for n in range(13):
        extend_hashes(found, list(range(n)), 4, "salt")
    assert found == hashes(list(range(12)), cache_salt="salt")


def test_a_match_ends_at_the_first_hash_that_is_not_here():
    index = PrefixIndex()
    first, second, third = hashes(list(range(12)))
    index.add(first, 5)
    index.add(third, 3)
    assert index.match([first, second, third]) == [5]
    index.add(second, 4)
    assert index.match([first, second, third]) == [5, 4, 3]
    index.remove(first)
    assert index.match([first, second, third]) == []


# ---- a run that is remembered


class Cache:
    """Told of blocks one by one, in any order. `asked` counts the questions whether a block is known."""

    def __init__(self) -> None:
        self.known = self
        self.evictions = Evictions()
        self.blocks: dict[BlockHash, int] = {}
        self.asked = 0

    def __contains__(self, block_hash: BlockHash) -> bool:
        self.asked += 1
        return block_hash in self.blocks

    def flip(self, depth: int, block_hash: BlockHash) -> None:
        if self.blocks.pop(block_hash, None) is None:
            self.blocks[block_hash] = depth
        else:
            self.evictions.add(depth, block_hash)


CHAINS = [hashes([*range(12), *own], 2) for own in ([1] * 8, [2] * 8, [3] * 8)]  # of ten, six in common


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.sampled_from([(), (0,), (0, 1, 2)]))))
def test_a_look_finds_as_much_as_a_walk_whatever_came_and_went_before(history):
    cache, runs = Cache(), [Run() for _ in CHAINS]
    for chain, depth, looks in history:
        cache.flip(depth, CHAINS[chain][depth])
        for at in looks:
            walked = next((i for i, block in enumerate(CHAINS[at]) if block not in cache.blocks), 10)
            assert runs[at].look(CHAINS[at], 10, cache) == walked
            assert runs[at].look(CHAINS[at], 3, cache) == min(walked, 3)


def test_a_look_costs_what_has_changed_since_the_last_one():
    chain, cache, run = hashes([7] * 3000, 1), Cache(), Run()
    for depth, block_hash in enumerate(chain):
        cache.flip(depth, block_hash)
    assert run.look(chain, 3000, cache) == 3000
    cache.asked = 0
    assert run.look(chain, 3000, cache) == 3000
    assert cache.asked == 0
    for depth in (2999, 2998):
        cache.flip(depth, chain[depth])
    assert run.look(chain, 3000, cache) == 2998
    assert cache.asked == 1


def test_after_very_many_evictions_a_look_is_a_walk():
    chain, cache, run = hashes([7] * 9000, 1), Cache(), Run()
    for depth, block_hash in enumerate(chain):
        cache.flip(depth, block_hash)
    assert run.look(chain, 9000, cache) == 9000
    cache.flip(5, chain[5])
    for other in range(5000):
        cache.evictions.add(other, other)
    assert run.look(chain, 9000, cache) == 5
