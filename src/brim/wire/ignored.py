"""Fields that were sent and have no meaning here are ignored, and named in a header of the answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from urllib.parse import quote

log = logging.getLogger("brim")

HEADER = "x-brim-ignored-fields"
MAX_CHARS = 1_000  # of names; clients and proxies refuse answers with some KiB of headers
MAX_NAME_CHARS = 64
MAX_LOGGED = 256  # names: a client that makes up new ones does not fill the log

_logged: set[str] = set()


def told(names: Sequence[str]) -> str:
    """The header's value: as many names as fit, and how many more there are. Those are also logged, once."""
    shown: list[str] = []
    room = MAX_CHARS
    for name in names:
        quoted = quote(name[:MAX_NAME_CHARS])
        room -= len(quoted) + len(", ")
        if room < 0:
            shown.append(f"and {len(names) - len(shown)} more")
            break
        _warn_once(quoted)
        shown.append(quoted)
    return ", ".join(shown)


def _warn_once(name: str) -> None:
    if name in _logged or len(_logged) >= MAX_LOGGED:
        return
    _logged.add(name)
    log.warning("the request field %s is unknown here and was ignored; said once", name)
    if len(_logged) == MAX_LOGGED:
        log.warning("further unknown request fields are told in the header %s only", HEADER)
