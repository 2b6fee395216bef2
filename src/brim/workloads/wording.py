"""Counts in words."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """`1 request`, `2 requests`, `2 replies`."""
    if number == 1:
        return f"{number} {what}"
    return f"{number} {what[:-1]}ies" if what.endswith("ly") else f"{number} {what}s"
