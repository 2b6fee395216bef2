"""What is read off the rows of the benchmark inside vLLM."""

import pytest
from benchmarks.vllm_mixed import Row, frontier, table

ALONE = (0.1, 0.02), (0.1, 0.02)
LATE = 9.0, 9.0


def row(way: str, per_second: float, *chats: tuple[float, float]) -> Row:
    return Row(way, (0.1, 0.1, 0.1), (0.02, 0.02, 0.02), per_second, 0.5, chats)


ROWS = [
    row("alone", 0.0, *ALONE),
    row("all late", 4.0, LATE, LATE),
    row("more, all late", 5.0, LATE, LATE),
    row("one late", 3.0, *ALONE[:1], LATE),
    row("less, one late", 2.0, *ALONE[:1], LATE),
    row("in time", 1.0, *ALONE),
]


def test_on_the_frontier_is_who_is_not_beaten():
    told = frontier(ROWS, 2)
    assert told == (
        "Frontier at 2x: more, all late (0.0 %, 5.00/s); one late (50.0 %, 3.00/s); in time (100.0 %, 1.00/s)"
    )


@pytest.mark.parametrize(
    ("gap", "shares"), [(0.025, "100.0 % / 100.0 % / 100.0 %"), (0.05, "0.0 % / 0.0 % / 100.0 %")]
)
def test_a_gap_counts_at_each_scale(gap, shares):
    lines = table([row("alone", 0.0, *ALONE), row("r", 1.0, (0.1, gap))]).splitlines()
    assert lines[3].endswith(f"| {shares} |")
    assert sum(line.startswith("- Frontier") for line in lines) == 3
