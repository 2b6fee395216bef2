"""Chained hashes of whole blocks, and the longest run of them that is known."""

from brim.core.kvcache.prefix_index import BlockHash, PrefixIndex, extend_hashes


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
