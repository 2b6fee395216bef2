"""`brim profile train-lengths`: a length model from what a server recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from brim.cli.flags import Json, refuse_unwritable
from brim.core.errors import ConfigError, MissingPackages
from brim.core.estimators.response_length import DEFAULT_QUANTILE

ROUNDED = 3


def train_lengths(
    served: Annotated[
        Path, typer.Argument(help="JSONL that `brim serve --record-lengths` wrote, oldest first.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the model goes, as JSON.")],
    quantile: Annotated[
        float, typer.Option(help="Share of the answers that should be no longer than predicted.")
    ] = DEFAULT_QUANTILE,
    json_output: Json = False,
) -> None:
    """Learn to predict the length of answers from requests that were served.

    The latest fifth is held back: on it, the error is told beside that of a constant and of the history.
    """
    try:
        from brim.profiling.length_model import read_rows, train
    except ImportError as exc:
        raise MissingPackages(f"learning needs more packages ({exc})", "profiling") from exc
    if not 0 < quantile < 1:
        raise ConfigError(f"quantile must lie between 0 and 1, not {quantile}")
    refuse_unwritable("--output", output)
    trained = train(read_rows(served), quantile)
    errors = {
        name: {figure: round(value, ROUNDED) for figure, value in figures.items()}
        for name, figures in trained.errors.items()
    }
    try:
        output.write_text(trained.model.to_json(rows=trained.rows, held_back=errors))
    except OSError as exc:
        raise ConfigError(
            f"can't write {output} ({exc.strerror}): give a file in a folder that exists"
        ) from exc
    if json_output:
        print(json.dumps({"output": str(output), "rows": trained.rows, "held_back": errors}))
    else:
        print(_table(errors))
        print(f"\nlearnt from {trained.rows} served requests, the last fifth held back: {output}")


def _table(errors: dict[str, dict[str, float]]) -> str:
    """A row for each predictor: its error on the requests held back, in tokens and shares."""
    heads = ("mean error", "within 50", "within 100", "too short", "mean over")
    rows = ["predictor".ljust(12) + "".join(head.rjust(12) for head in heads)]
    for name, figures in errors.items():
        values = [f"{figures[figure]:12.{digits}}" for figure, digits in _SHOWN.items()]
        rows.append(name.ljust(12) + "".join(values))
    return "\n".join(rows)


_SHOWN = {
    "mean_absolute_tokens": "1f",
    "share_within_50": "1%",
    "share_within_100": "1%",
    "share_under_predicted": "1%",
    "mean_over_tokens": "1f",
}
