"""The comparison with vLLM's own tests notices what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.vllm import sources, upstream

REPORT = """<testsuites><testsuite>
<testcase classname="core.test_a" name="test_good"/>
<testcase classname="core.test_a" name="test_bad"><failure message="1 is not 2&#10;and more"/></testcase>
<testcase classname="core.test_a" name="test_out"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>"""
BROKEN = """
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

class Broken(AsyncScheduler):
    def add_request(self, request):
        raise RuntimeError("broken on purpose")
"""


def test_a_report_is_read(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    outcomes = upstream.read(tmp_path / "report.xml")
    assert outcomes == {
        "core.test_a::test_good": "passed",
        "core.test_a::test_bad": "1 is not 2",
        "core.test_a::test_out": "skipped",
    }


def test_what_stock_passes_counts_and_nothing_else() -> None:
    stock = {"both": "passed", "worse": "passed", "gone": "passed", "never": "boom", "better": "boom"}
    ours = {"both": "passed", "worse": "boom", "never": "boom", "better": "passed"}
    assert upstream.lost(stock, ours) == {"worse": "boom", "gone": "did not run"}
    assert upstream.lost(ours, stock) == {"better": "boom"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_given_class_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    version = sources.installed_version()
    assert version is not None
    chosen = ["core/test_async_scheduler.py::test_abort", "core/test_scheduler.py::test_add_requests"]
    outcomes = upstream.run(version, "broken:Broken", chosen)
    assert len(outcomes) == 2
    assert set(outcomes.values()) == {"RuntimeError: broken on purpose"}
