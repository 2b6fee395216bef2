"""How much JSON one request may hold."""

from __future__ import annotations

# Decoding more holds up the whole process, in whatever thread. Counted in texts too: a text with as many
# brackets or commas is over any model's context.
MAX_NODES = 100_000
MAX_ITEMS = 1_000_000
_BLANKS = b" \t\r\n"  # they may stand between a key and its colon


def has_too_many_parts(raw: bytes) -> bool:
    """Whether decoding it would take long; told from the bytes, without decoding them."""
    nodes = raw.count(b"[") + raw.count(b"{") + raw.translate(None, _BLANKS).count(b'":')
    return nodes > MAX_NODES or raw.count(b",") > MAX_ITEMS
