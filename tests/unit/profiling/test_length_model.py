"""A fitted model says in plain Python what scikit-learn says, and beats what reads no prompt."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn (pip install 'brim[profiling]')")

import numpy as np

from brim.cli.train_lengths import train_lengths
from brim.core.errors import ConfigError
from brim.core.estimators.learned_length import FEATURES, NUM_FEATURES, LengthModel
from brim.core.estimators.served_length import ServedLength
from brim.core.request import TaskClass
from brim.profiling.length_model import Trained, exported, fitted, read_rows, train


def served(number: int, draw: random.Random) -> ServedLength:
    """Answers of 20 tokens, or of 200 where the prompt has the word 5; and as many more as tenant b wants."""
    long, tenant = draw.random() < 0.4, draw.choice("ab")
    length = (200 if long else 20) * (2 if tenant == "b" else 1) * draw.uniform(0.8, 1.2)
    words = (5, 9) if long else (9,)
    keys = (f"tenant:{tenant}",)
    return ServedLength(draw.randrange(5, 50), 1024, TaskClass.ONLINE, 1.0, keys, words, round(length))


@pytest.fixture(scope="module")
def rows() -> list[ServedLength]:
    draw = random.Random(7)
    return [served(number, draw) for number in range(800)]


@pytest.fixture(scope="module")
def trained(rows: list[ServedLength]) -> Trained:
    return train(rows, 0.7)


@pytest.fixture
def file(rows: list[ServedLength], tmp_path: Path) -> Path:
    path = tmp_path / "served.jsonl"
    path.write_text("".join(row.to_json() + "\n" for row in rows))
    return path


def test_what_is_exported_is_what_was_fitted() -> None:
    draw = np.random.default_rng(0)
    inputs = np.zeros((600, NUM_FEATURES), dtype=np.float32)
    inputs[:, :4] = np.round(draw.uniform(0, 12, (600, 4)) * 64) / 64
    inputs[:, len(FEATURES) : len(FEATURES) + 20] = draw.random((600, 20)) < 0.3
    lengths = [round(value) for value in 10 * inputs[:, 0] + 50 * inputs[:, len(FEATURES) + 3] + 1]
    regressor = fitted(inputs, lengths, 0.8)
    model = LengthModel.from_json(exported(regressor).to_json())
    ours = [model.tokens(row.tolist()) for row in inputs]
    assert ours == pytest.approx(2.0 ** regressor.predict(inputs) - 1, rel=1e-9)


def test_it_learns_what_the_prompt_tells(trained: Trained) -> None:
    errors = trained.errors
    learned = errors["learned"]
    assert learned["requests"] == 160
    for other in ("constant", "history"):
        assert learned["mean_absolute_tokens"] < 0.3 * errors[other]["mean_absolute_tokens"]
    assert learned["share_under_predicted"] == pytest.approx(0.3, abs=0.08)


def test_training_twice_gives_the_same_model(rows: list[ServedLength], trained: Trained) -> None:
    assert train(rows, 0.7) == trained


def test_too_few_rows_are_refused(rows: list[ServedLength]) -> None:
    with pytest.raises(ConfigError, match="record at least 500"):
        train(rows[:499], 0.7)


def test_a_file_is_read_back(file: Path, rows: list[ServedLength]) -> None:
    assert read_rows(file) == rows


@pytest.mark.parametrize("line", ["{}", "text", '{"prompt_tokens": 1'])
def test_a_wrong_line_is_named(file: Path, line: str) -> None:
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(ConfigError, match="line 801 of"):
        read_rows(file)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        read_rows(tmp_path / "absent.jsonl")


def test_the_command_shows_a_table(
    file: Path,
    tmp_path: Path,
    trained: Trained,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("brim.profiling.length_model.train", lambda rows, quantile: trained)
    train_lengths(file, tmp_path / "model.json")
    heads, *rows, _, _ = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["constant", "history", "learned"]
    assert {len(row) for row in rows} == {len(heads)}


def test_the_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:

    target = tmp_path / "model.json"
    train_lengths(file, target, 0.7, json_output=True)
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 800
    assert set(told["held_back"]) == {"constant", "history", "learned"}
    assert LengthModel.from_json(target.read_text()).quantile == 0.7
    for wrong in (0.0, 1.0):
        with pytest.raises(ConfigError, match="quantile"):
            train_lengths(file, target, wrong)


def test_an_output_that_can_not_be_written_is_said_before_anything_is_learnt(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brim.profiling.length_model.train", lambda rows, quantile: pytest.fail("learns"))
    with pytest.raises(ConfigError, match="there is no folder"):
        train_lengths(file, tmp_path / "absent" / "model.json")
    with pytest.raises(ConfigError, match="is a folder: give a file in it"):
        train_lengths(file, tmp_path)
