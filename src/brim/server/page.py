"""The page for people: it asks `/metrics` every other second, and draws what it says."""

from __future__ import annotations

from functools import cache
from importlib import resources

from fastapi import Response

# the page loads nothing from anywhere, and asks nobody but this server
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; form-action 'none'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "Cache-Control": "no-cache",
}


async def page() -> Response:
    """What the server does at this moment, for a browser."""
    return Response(text(), media_type="text/html; charset=utf-8", headers=_HEADERS)


@cache
def text() -> str:
    return resources.files("brim.server").joinpath("page.html").read_text(encoding="utf-8")
