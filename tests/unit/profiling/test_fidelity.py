"""A run of one user is worked out by hand."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from brim.core.estimators.step_time import StepShape
from brim.profiles.loader import load
from brim.profiling.fidelity import H100_PROFILE, Pairs, h100_runs, with_section
from brim.profiling.measured import H100_MODEL, H100_RUNS


def test_one_user_decodes_alone(tmp_path: Path):
    """Prompt of 100, three tokens: two decodes, with contexts of 101 and 102."""
    path = tmp_path / H100_RUNS
    path.parent.mkdir()
    columns = "model_path,tp_size,isl,osl,concurrency,silicon_tpot_ms"
    rows = [f"{H100_MODEL},1.0,100,3,1,8.0", f"{H100_MODEL},2.0,100,3,1,5.0", "other,1.0,100,3,1,5.0"]
    path.write_bytes(gzip.compress("\n".join([columns, *rows]).encode()))
    steps = load(H100_PROFILE).step_time
    expected = (steps.seconds(StepShape(1, 0, 1, 101)) + steps.seconds(StepShape(1, 0, 1, 102))) / 2
    [(measured, predicted)] = h100_runs(tmp_path).pairs
    assert measured == 0.008
    assert predicted == pytest.approx(expected, abs=2e-9)


def test_errors_are_shares_of_what_was_measured():
    assert Pairs("x", [(2.0, 3.0), (4.0, 3.0)]).errors == [0.5, -0.25]


def test_a_section_takes_the_place_of_the_one_of_its_name_and_no_others():
    page = "# Fidelity\n\nHead.\n\n## Many\n\ntext\n\n## Engine: local\n\nold\n\n## Engine: vllm\n\nits own\n"
    new = with_section(page, "## Engine: local\n\n### Part\n\nnew\n")
    assert new == (
        "# Fidelity\n\nHead.\n\n## Many\n\ntext\n\n## Engine: vllm\n\nits own\n\n"
        "## Engine: local\n\n### Part\n\nnew\n"
    )
    assert with_section(new, "## Engine: other\n\nmore") == f"{new}\n## Engine: other\n\nmore\n"
