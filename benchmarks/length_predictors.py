"""How wrong each length predictor is on lists of lengths, side by side on the same requests.

    python benchmarks/length_predictors.py FILE.csv[.gz] ... [--quantile 0.7] [--limit 2048] [--json]

The files have the columns `input_tokens` and `output_tokens`, and may have `client` or `task`: requests of
one are a group. Each request ends before the next one comes; the last fifth is judged, at admission. The
learned predictor is fitted to what comes before that, and reads a prompt's length only. The `max_tokens` of
every request is `--limit`, or the longest answer of its file where that is more.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path

from brim.core.estimators.response_length import AtMost
from brim.core.estimators.served_length import ServedLength
from brim.core.request import TaskClass
from brim.profiling.length_model import HELD_BACK, MAX_ROWS, judge, train

FIGURES = (
    "mean_absolute_tokens",
    "share_within_50",
    "share_within_100",
    "share_under_predicted",
    "mean_over_tokens",
)


def served(path: Path, limit: int) -> list[ServedLength]:
    """The latest requests of a file."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))[-MAX_ROWS:]
    limit = max(limit, *(int(row["output_tokens"]) for row in rows))
    return [_served(row, limit) for row in rows]


def _served(row: dict[str, str], limit: int) -> ServedLength:
    return ServedLength(
        prompt_tokens=int(row["input_tokens"]),
        max_tokens=limit,
        task_class=TaskClass.ONLINE,
        temperature=1.0,
        length_keys=tuple(f"{name}:{row[name]}" for name in ("client", "task") if name in row),
        words=(),
        output_tokens=int(row["output_tokens"]),
    )


def compared(rows: list[ServedLength], quantile: float) -> dict[str, dict[str, float]]:
    """The error of each predictor on the last fifth of the rows."""
    requests = [row.request(f"row-{number}") for number, row in enumerate(rows)]
    lengths = [row.output_tokens for row in rows]
    first_judged = len(rows) - round(len(rows) * HELD_BACK)
    at_most = judge(AtMost(), requests, lengths, first_judged)
    return {"at most": at_most, **train(rows, quantile).errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--quantile", type=float, default=0.7)
    parser.add_argument("--limit", type=int, default=2048)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    errors = {path.name: compared(served(path, options.limit), options.quantile) for path in options.files}
    if options.json:
        print(json.dumps(errors))
        return
    for name, by_predictor in errors.items():
        print(f"{name}\n  {'':10}{'error':>9}{'in 50':>9}{'in 100':>9}{'short':>9}{'over':>9}")
        for predictor, figures in by_predictor.items():
            error, *shares, over = (figures[figure] for figure in FIGURES)
            shown = [f"{error:9.1f}", *(f"{share:9.1%}" for share in shares), f"{over:9.1f}"]
            print(f"  {predictor:10}{''.join(shown)}")


if __name__ == "__main__":
    main()
