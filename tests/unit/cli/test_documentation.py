"""docs/configuration.md names every setting with its default and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from brim.cli.settings import RunBatchSettings, ServeSettings

DOCUMENT = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
FIELDS: dict[str, Any] = {**RunBatchSettings.model_fields, **ServeSettings.model_fields}


@pytest.mark.parametrize("name", FIELDS)
def test_setting_is_documented(name: str) -> None:
    field = FIELDS[name]
    default = "" if field.default in (None, []) else f"`{field.default!s}`"
    if isinstance(field.default, bool):
        default = default.lower()
    assert f"| `{name}` | {default} | {field.description} |" in DOCUMENT
