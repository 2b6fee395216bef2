"""The shape of the house, so that it stays readable: layers, light imports, short functions and files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from statistics import quantiles

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "brim"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION, P95_FUNCTION = 400, 60, 39
INSIDE_VLLM = ("scheduler.py", "views.py", "compat.py")  # what touches vLLM's names
LONGEST_ADAPTER = 500


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def function_lengths() -> dict[str, int]:
    return {
        f"{path.relative_to(SOURCE)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_no_file_is_too_long_to_read_at_once() -> None:
    long = {
        str(p.relative_to(SOURCE)): n for p in FILES if (n := len(p.read_text().splitlines())) > LONGEST_FILE
    }
    assert not long


def test_functions_are_short() -> None:
    lengths = function_lengths()
    assert not {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION}
    assert quantiles(lengths.values(), n=20)[-1] <= P95_FUNCTION


def test_the_adapter_inside_vllm_is_thin() -> None:
    files = [SOURCE / "plugins" / "vllm" / name for name in INSIDE_VLLM]
    assert sum(len(path.read_text().splitlines()) for path in files) <= LONGEST_ADAPTER


def test_what_any_engine_needs_knows_nothing_of_vllm() -> None:
    assert not [path for path in (SOURCE / "plugins").glob("*.py") if "vllm" in path.read_text().lower()]


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=str)
def test_a_package_imports_nothing_by_itself(path: Path) -> None:
    imports = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not imports


def test_the_layers_hold() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=SOURCE.parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout


def test_core_imports_only_the_standard_library() -> None:
    loaded = python(
        "import sys; before = set(sys.modules); import brim.core.scheduler, brim.metrics.recorder;"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    assert set(loaded.split()) - set(sys.stdlib_module_names) == {"brim"}


def test_core_is_imported_in_a_moment() -> None:
    code = (
        "import time; start = time.process_time(); import brim.core.scheduler;"
        "print(time.process_time() - start)"
    )
    assert min(float(python(code)) for _ in range(5)) < 0.3


def test_help_loads_neither_torch_nor_a_web_framework() -> None:
    loaded = python("import sys, brim.cli.main; print(*sys.modules)").split()
    assert not {"torch", "transformers", "fastapi", "uvicorn"} & set(loaded)
