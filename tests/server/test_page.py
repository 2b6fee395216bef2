"""The page for people: whole in one answer, and it asks for nothing that is not there."""

import re
from functools import partial
from pathlib import Path

import pytest

from brim.batch_api.api import BatchApi
from brim.core.request import SLO
from brim.server import page
from brim.server.lines import submit_line
from brim.server.options import ServerOptions, ServiceOptions
from brim.server.service import OpenAIService
from tests.server.http_harness import HELLO, MODEL, running

TARGETS = SLO(ttft_ns=500_000_000, itl_ns=50_000_000)


def metrics_of_the_page() -> set[str]:
    """Names that it reads; of a histogram its buckets."""
    return set(re.findall(r'"((?:brim|vllm):\w+)"', page.text()))


def test_every_metric_that_the_page_reads_is_there(tmp_path: Path) -> None:
    def batch_api(service: OpenAIService) -> BatchApi:
        return BatchApi(tmp_path, partial(submit_line, service), models=lambda: service.model_names)

    with running(service_options=ServiceOptions(default_slo=TARGETS), batch_api=batch_api) as run:
        run.openai().chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2)
        told = run.http().get("/metrics").text
    read = metrics_of_the_page()
    assert len(read) > 15
    told_names = set(re.findall(r"^([\w:]+?)(?:_bucket)?(?:\{| )", told, re.MULTILINE))
    assert read <= told_names | {"brim:batch_backlog_seconds"}  # which is told once lines have run
    for name in ("online", "offline"):  # the page puts these names together
        assert f"brim:{name}_requests_waiting" in told_names
    assert f'brim:target_seconds{{model_name="{MODEL}",slo="ttft"}} 0.5' in told
    assert 'slo="tpot"} ' not in told.split("brim:slo_attainment")[0]


@pytest.mark.parametrize("keys", [(), ("secret",)])
def test_the_page_loads_nothing_from_elsewhere(keys: tuple[str, ...]) -> None:
    with running(server_options=ServerOptions(api_keys=keys, guard_metrics=bool(keys))) as run:
        answer = run.http().get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "</html>" in answer.text
    assert "http://" not in answer.text
    assert "https://" not in answer.text
