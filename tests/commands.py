"""The commands that the documents tell to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROMPT = re.compile(r"^ *\$ (.*)$")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def typed(document: Path) -> Iterator[list[str]]:
    """The words of each line that begins with a `$`, continued or not, without variables that are set."""
    lines = iter(document.read_text().splitlines())
    for line in lines:
        if not (found := PROMPT.match(line)):
            continue
        text = found[1]
        while text.endswith("\\"):
            text = text[:-1] + next(lines)
        words = shlex.split(text, comments=True)
        while words and ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        yield words


def of(program: str, documents: list[Path] = DOCUMENTS) -> list[list[str]]:
    """Those of one program."""
    return [words for each in documents for words in typed(each) if words[:1] == [program]]
