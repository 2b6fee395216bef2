"""Results into a folder: results.json, tables.md and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from brim.core.errors import ConfigError, MissingPackages
from brim.simulation.results import Figures


def refuse_unwritable(folder: Path) -> None:
    """Raises ConfigError for what can be seen to be wrong before a long run."""
    _make(folder)
    try:
        import matplotlib  # noqa: F401
    except ImportError as exc:
        raise MissingPackages("the pictures need matplotlib", "plot") from exc


def write(
    results: Figures, folder: Path, text: Callable[[Figures], str], draw: Callable[[Figures, Path], None]
) -> None:
    write_tables(results, folder, text)
    draw(results, folder)


def write_tables(results: Figures, folder: Path, text: Callable[[Figures], str]) -> None:
    """Raises ConfigError where the folder can't be made."""
    _make(folder)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "tables.md").write_text(text(results), encoding="utf-8")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"can't write into {folder}: {exc.strerror}") from exc
