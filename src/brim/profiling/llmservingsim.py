"""Steps from LLMServingSim's tables of vLLM layers: matrices and small ops, and attention of MIXED batches.

Times are microseconds of one call. Each row of the attention table is one step: a prompt chunk behind cached
tokens, with decodes beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from brim.core.estimators.step_time import StepShape, attention_pairs
from brim.profiling.fitting import Row
from brim.profiling.models import ModelSizes
from brim.profiling.tables import Curve, curve, records, total

US = 1e-6
IN_A_LAYER = (
    "qkv_proj",
    "o_proj",
    "gate_up_proj",
    "down_proj",
    "layernorm",
    "layernorm",
    "rotary_emb",
    "act_fn",
)
ONCE = ("embedding", "final_layernorm")


@dataclass(frozen=True)
class Layers:
    """The tables whose names begin with `prefix`, for `model`."""

    folder: Path
    prefix: str
    model: ModelSizes

    def steps(self, kv_tokens: int) -> list[Row]:
        """Every row of the attention table whose context fits in `kv_tokens`, as a whole step."""
        dense, sampled = self._curves("dense", "tokens"), self._curves("per_sequence", "sequences")
        layer = total(dense[name] for name in IN_A_LAYER)
        once, ends = total(dense[name] for name in ONCE), total(sampled.values())
        found = []
        for row in records(self._file("attention")):
            chunk, start, batch, context = (
                int(row[name]) for name in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
            )
            if chunk + start + batch * context > kv_tokens:
                continue
            shape = StepShape(chunk + batch, attention_pairs(chunk, start), batch, batch * context)
            one = layer(shape.new_tokens) + float(row["time_us"])
            rest = once(shape.new_tokens) + ends(batch + bool(chunk))
            found.append(Row(shape, US * (self.model.layers * one + rest)))
        return found

    def _curves(self, table: str, size: str) -> Mapping[str, Curve]:
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row in records(self._file(table)):
            points[row["layer"]].append((int(row[size]), float(row["time_us"])))
        return {layer: curve(values) for layer, values in points.items()}

    def _file(self, table: str) -> Path:
        return self.folder / f"llmservingsim/{self.prefix}_{table}.csv.gz"
