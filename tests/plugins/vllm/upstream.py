"""Every test of vLLM's scheduler that vLLM's own class passes, Brim's class has to pass too.

    python -m tests.plugins.vllm.upstream                        the installed release, Brim's scheduler
    python -m tests.plugins.vllm.upstream --version 0.33.0       another one, from its source
    python -m tests.plugins.vllm.upstream --class pkg.mod:Class  any other scheduler

Fetches vLLM's tests with pip, runs them once with vLLM's classes and once with the given one in the place of
`Scheduler` and `AsyncScheduler`, and compares. It exits with 1 where a test differs to the worse.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.plugins.vllm import classes, hub, sources

HOOKS = Path(__file__).parent / "upstream_hooks"
TESTS = [
    *(
        f"core/test_{name}.py"
        for name in (
            "scheduler",
            "async_scheduler",
            "deferred_block_free",
            "mamba_align_chunk_split",
            "output",
            "prefix_caching",
            "prefix_replay",
            "priority_preemption_bug",
            "repetition_detection",
            "single_type_kv_cache_manager",
            "swa_inflight_window_free",
            "worker_slot_overflow",
        )
    ),
    "core/test_priority_scheduler_random.py::test_priority_scheduling_blast[preemption-5-True]",
    "streaming_input/test_scheduler_streaming.py",
    *(
        f"kv_connector/unit/test_{name}.py"
        for name in (
            "cache_pollution_prevention",
            "error_propagation",
            "invalid_blocks_correctness",
            "kv_load_failure_recovery",
            "remote_decode_lifecycle",
            "remote_prefill_lifecycle",
        )
    ),
]
PASSED, SKIPPED = "passed", "skipped"

Outcomes = Mapping[str, str]  # by test: "passed", "skipped", or the first line of what went wrong


def run(version: str, stand_in: str | None = None, only: Sequence[str] = ()) -> Outcomes:
    """The outcomes of vLLM's tests (`only` these, relative to `tests/v1`) with a scheduler standing in.

    Raises `RuntimeError` when pytest could not run them at all.
    """
    checkout = sources.sdist(version)
    chosen = [f"tests/v1/{name}" for name in only or TESTS]
    present = [name for name in chosen if (checkout / name.partition("::")[0]).is_file()]
    flags = ["-c", str(HOOKS / "upstream.ini"), "--rootdir", str(checkout), "--noconftest", "-q"]
    flags += ["-W", "ignore", "-p", "brim_stand_in", "-p", "no:cacheprovider", "--tb=short"]
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder) / "report.xml", Path(folder) / "log"
        with log.open("w") as output:
            subprocess.run(
                [sys.executable, "-m", "pytest", *flags, f"--junitxml={report}", *present],
                cwd=checkout,
                env=environment(version, stand_in),
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,  # tests that fail are an outcome
            )
        if not report.is_file():
            raise RuntimeError(
                f"pytest did not get through vLLM {version}'s tests:\n{log.read_text()[-4000:]}"
            )
        return read(report)


def environment(version: str, stand_in: str | None) -> dict[str, str]:
    """What a test process of that release is started with."""
    home = sources.once(sources.cache_folder() / f"hub-{hub.VERSION}", hub.write)
    source = [] if version == sources.installed_version() else [sources.sdist(version) / "source"]
    given = [Path(part).absolute() for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    inherited = {name: value for name, value in os.environ.items() if name != "BRIM_STAND_IN"}
    return {
        **inherited,
        **({"BRIM_STAND_IN": stand_in} if stand_in else {}),
        "PYTHONPATH": os.pathsep.join(map(str, [HOOKS, sources.torchvision(), *source, *given])),
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
    }


def read(report: Path) -> Outcomes:
    """The outcomes in a JUnit report."""
    return {
        f"{case.get('classname')}::{case.get('name')}": outcome(case)
        for case in ET.parse(report).iter("testcase")
    }


def outcome(case: ET.Element) -> str:
    for kind in ("failure", "error"):
        if (found := case.find(kind)) is not None:
            return (found.get("message") or kind).strip().splitlines()[0]
    return PASSED if case.find("skipped") is None else SKIPPED


def lost(stock: Outcomes, ours: Outcomes) -> dict[str, str]:
    """What became of each test that `stock` passes and `ours` does not."""
    return {
        test: ours.get(test, "did not run")
        for test, result in stock.items()
        if result == PASSED and ours.get(test) != PASSED
    }


def count(outcomes: Outcomes) -> str:
    return f"{sum(result == PASSED for result in outcomes.values())} of {len(outcomes)} pass"


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parse(arguments)
    if asked.version is None:
        print(
            "vLLM is not installed: say which release's source to take, as in --version 0.32.0",
            file=sys.stderr,
        )
        return 2
    kind = "installed" if asked.version == sources.installed_version() else "from source"
    print(f"vLLM {asked.version} ({kind})", flush=True)
    stock = run(asked.version, only=asked.only)
    print(f"  vLLM's own scheduler: {count(stock)}", flush=True)
    for test, result in stock.items():
        if result not in (PASSED, SKIPPED):
            print(f"    stock fails {test}: {result}")
    ours = run(asked.version, asked.stand_in, asked.only)
    print(f"  {asked.stand_in}: {count(ours)}")
    missing = lost(stock, ours)
    for test, result in missing.items():
        print(f"    LOST {test}: {result}")
    for test in lost(ours, stock):
        print(f"    gained {test}")
    return 1 if missing or PASSED not in stock.values() else 0


def parse(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", default=sources.installed_version(), help="a release of vLLM")
    parser.add_argument("--class", dest="stand_in", default=classes.BRIM, help="module:Class")
    parser.add_argument(
        "only", nargs="*", help="test files or tests under tests/v1, instead of the chosen ones"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
