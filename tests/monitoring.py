"""The dashboard and the rules of `examples/monitoring`: which metrics and labels they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.commands import ROOT

FOLDER = ROOT / "examples/monitoring"
TARGET_LABELS = {"job", "instance"}  # Prometheus' own, on every sample
_QUOTED_OR_RANGE = re.compile(r'"[^"]*"|\[[^\]]*\]')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\b(?:\{([^}]*)\})?(?!\s*\()")
_LABEL = re.compile(r"(\w+)\s*[=!]")
_WORDS = {"and", "or", "unless", "bool", "offset"}


def dashboard() -> dict[str, Any]:
    return json.loads((FOLDER / "dashboard.json").read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[str]:
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    yield from (rule["expr"] for rule in rules())


def metrics(expression: str) -> dict[str, set[str]]:
    """By the metric's name, the labels that it is selected by."""
    found: dict[str, set[str]] = {}
    for name, matchers in _SELECTOR.findall(_GROUPING.sub("", _QUOTED_OR_RANGE.sub("", expression))):
        if name not in _WORDS:
            found.setdefault(name, set()).update(_LABEL.findall(matchers))
    return found


def grouped(expression: str) -> set[str]:
    """The labels that are kept or matched on."""
    return {label.strip() for labels in _GROUPING.findall(expression) for label in labels.split(",")} - {""}


def exported(*texts: str) -> dict[str, set[str]]:
    """By the name of each sample of these expositions, its labels."""
    found: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found
