"""What to do about a package that is not there."""

from __future__ import annotations


def install(extras: str) -> str:
    """How to get what these extras name. Brim is on no package index, so its own folder is named."""
    return f'in a checkout of Brim, pip install ".[{extras}]"'
