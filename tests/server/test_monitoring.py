"""The dashboard and the rules name only what is exported, and Prometheus takes them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from brim.batch_api.api import BatchApi
from brim.core.estimators.length_error import LengthError
from brim.core.request import SLO
from brim.plugins.hosting import Settings
from brim.plugins.vllm.metrics import EngineFigures
from brim.server.lines import submit_line
from brim.server.options import ServiceOptions
from brim.server.service import OpenAIService
from tests import monitoring
from tests.helpers import OFFLINE
from tests.hosting import TARGETS, Engine
from tests.server.http_harness import HELLO, MODEL, running, until

OF_VLLM = "http_"  # begins a name that only its server exports: tests/e2e/test_vllm_server.py


def _served(folder: Path) -> str:
    """What `brim serve` shows after a request of each class."""

    def batch_api(service: OpenAIService) -> BatchApi:
        return BatchApi(folder, partial(submit_line, service), models=lambda: service.model_names)

    options = ServiceOptions(default_slo=SLO(ttft_ns=500_000_000))
    with running(service_options=options, batch_api=batch_api, policy="brim") as run:
        run.loop.length_error = LengthError(requests=1)  # as where a host predicts lengths
        for tier in ("auto", "flex"):
            run.openai().chat.completions.create(model=MODEL, messages=HELLO, max_tokens=4, service_tier=tier)
        until(lambda: run.loop.stats().num_running == 0)
        return run.http().get("/metrics").text


def _hosted() -> str:
    """What Brim adds to vLLM's, from two engines after a request of each class: one in shadow mode."""
    by_engine = {}
    for number, mode in enumerate(("active", "shadow")):
        engine = Engine()
        engine.hosting.configure(Settings("brim", mode, TARGETS, strict=True))
        engine.ask("chat", slo=TARGETS)
        engine.ask("line", task_class=OFFLINE)
        engine.serve()
        by_engine[str(number)] = engine.hosting.samples()
    registry = CollectorRegistry()
    registry.register(EngineFigures(by_engine))
    return generate_latest(registry).decode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    return monitoring.exported(_served(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def hosted() -> dict[str, set[str]]:
    return monitoring.exported(_hosted())


@pytest.fixture(scope="module")
def exported(served: dict[str, set[str]], hosted: dict[str, set[str]]) -> dict[str, set[str]]:
    """By either server; what is recorded, too, and what Prometheus adds."""
    recorded = {
        rule["record"]: monitoring.grouped(rule["expr"]) for rule in monitoring.rules() if "record" in rule
    }
    both = {name: served.get(name, set()) | hosted.get(name, set()) for name in served.keys() | hosted.keys()}
    return both | recorded | {"up": set()}


def test_what_is_told_by_class_is_the_same_inside_vllm(
    served: dict[str, set[str]], hosted: dict[str, set[str]]
) -> None:
    by_class = {name: labels - {"model_name"} for name, labels in served.items() if "class" in labels}
    del by_class["brim:requests_finished_total"]  # vLLM counts these itself, of all classes
    assert "brim:slo_attainment_total" in by_class
    assert {name: labels - {"engine"} for name, labels in hosted.items() if "class" in labels} == by_class
    assert {"brim:target_seconds", "brim:online_requests_waiting", "brim:offline_requests_waiting"} <= (
        served.keys() & hosted.keys()
    )


@pytest.mark.parametrize("expression", sorted(set(monitoring.expressions())))
def test_metrics_and_labels_are_exported(expression: str, exported: dict[str, set[str]]) -> None:
    asked = monitoring.metrics(expression)
    asked = {name: labels for name, labels in asked.items() if not name.startswith(OF_VLLM)}
    assert asked.keys() <= exported.keys()
    for name, labels in asked.items():
        assert labels <= exported[name] | monitoring.TARGET_LABELS, name
    kept = monitoring.grouped(expression) - monitoring.TARGET_LABELS
    assert not asked or kept <= set().union(*(exported[name] for name in asked))


def test_metrics_and_labels_are_found_in_an_expression() -> None:
    expression = (
        'sum by (le, class) (rate(brim:a_bucket{class=~"on|off", x!="{y}"}[5m])) > on (job) group_left () up'
    )
    assert monitoring.metrics(expression) == {"brim:a_bucket": {"class", "x"}, "up": set()}
    assert monitoring.grouped(expression) == {"le", "class", "job"}


def test_every_panel_explains_itself() -> None:
    panels = monitoring.panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        for target in panel["targets"]:
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= monitoring.grouped(target["expr"]), panel["title"]


def test_every_variable_of_the_dashboard_is_defined() -> None:
    text = json.dumps(monitoring.panels())
    known = {each["name"] for each in monitoring.dashboard()["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", text)) == known | {"__rate_interval", "__range"}


def test_every_alert_says_what_to_do() -> None:
    for rule in monitoring.rules():
        if "alert" in rule:
            assert rule["for"]
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool, which comes with Prometheus, is missing")
@pytest.mark.parametrize(
    "words",
    [
        ["check", "config", monitoring.FOLDER / "prometheus.yml"],
        ["test", "rules", Path(__file__).parent / "alerts.yml"],
    ],
    ids=["configuration", "alerts"],
)
def test_prometheus_takes_it(words: list[str | Path]) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
