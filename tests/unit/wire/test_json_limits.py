from __future__ import annotations

import pytest

from brim.wire.json_limits import MAX_NODES, has_too_many_parts


@pytest.mark.parametrize("colon", [":", " :", "\t:", "\r\n :", " " * 20 + ":"])
def test_keys_count_whatever_stands_before_their_colon(colon: str) -> None:
    def keys(number: int) -> bytes:
        return b"{" + ",".join([f'"a"{colon} 1'] * number).encode() + b"}"

    assert has_too_many_parts(keys(MAX_NODES))
    assert not has_too_many_parts(keys(MAX_NODES - 1))


def test_colons_in_a_text_are_no_keys() -> None:
    assert not has_too_many_parts(b'{"prompt": "' + b"12:30 : " * MAX_NODES + b'"}')
