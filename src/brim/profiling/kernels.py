"""Steps put together from tables of kernel times: aiconfigurator's matrices and attention, vidur's small ops.

A step of one replica = layers x (four matrices + attention of prompts + attention of decodes + small ops
+ two all-reduces) + the output matrix for the rows that draw a token. Times in the tables are milliseconds of
one call on one GPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from brim.profiling.models import ModelSizes
from brim.profiling.tables import Curve, between, blend, curve, records, total

MS = 1e-3
SMALL_OPS = ("input_layernorm_ms", "attn_rope_ms", "post_attention_layernorm_ms", "mlp_act_ms", "add_ms")

Heads = tuple[int, int]


@dataclass(frozen=True)
class SmallOps:
    """vidur's norms, activation and the like, measured on `measured` under its tensor parallelism."""

    file: str
    measured: ModelSizes
    tensor_parallel: int = 1
    ops: tuple[str, ...] = SMALL_OPS


@dataclass(frozen=True)
class Tables:
    """Where the kernel times of one GPU lie, relative to the data folder."""

    gemm: str
    context: str
    generation: str
    allreduce: str


@dataclass(frozen=True)
class Kernels:
    """The kernel times of `model` on one kind of GPU."""

    folder: Path
    tables: Tables
    small: SmallOps
    model: ModelSizes
    tensor_parallel: int = 1

    @property
    def heads(self) -> Heads:
        """(attention heads, KV heads) on one GPU."""
        return self.model.heads // self.tensor_parallel, self.model.kv_heads // self.tensor_parallel

    @cached_property
    def layer(self) -> Curve:
        """ms of one layer's matrices and small ops against tokens."""
        matrices = [self._matrix(n, k) for n, k in self.model.linears(self.tensor_parallel)]
        return total([*matrices, self._small_ops()])

    @cached_property
    def head(self) -> Curve:
        """ms of the output matrix against rows."""
        return self._matrix(self.model.vocab // self.tensor_parallel, self.model.hidden)

    @cached_property
    def _gemms(self) -> Mapping[int, Mapping[float, Curve]]:
        """k -> n -> curve."""
        points: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
        for row in records(self.folder / self.tables.gemm):
            points[int(row["k"]), int(row["n"])].append((int(row["m"]), float(row["latency_ms"])))
        found: dict[int, dict[float, Curve]] = defaultdict(dict)
        for (k, n), values in points.items():
            found[k][n] = curve(values)
        return found

    def _matrix(self, n: int, k: int) -> Curve:
        """The table has a grid of n and k: straight lines between its places."""
        if k in self._gemms:
            return between(self._gemms[k], n)
        above = min(place for place in self._gemms if place > k)
        below = max(place for place in self._gemms if place < k)
        low, high = between(self._gemms[below], n), between(self._gemms[above], n)
        return blend(low, high, (k - below) / (above - below))

    def _small_ops(self) -> Curve:
        """One token costs what was measured; what more tokens add grows with the model's width."""
        measured = self.small.measured
        mlp = self.model.mlp / self.tensor_parallel * self.small.tensor_parallel / measured.mlp
        ratios = {"mlp_act_ms": mlp}
        rows = list(records(self.folder / self.small.file))
        found = []
        for op in self.small.ops:
            points = (
                (int(r["num_tokens"]), float(r[op]))
                for r in rows
                if int(r["tp"]) == self.small.tensor_parallel
            )
            times = curve(points)
            ratio = ratios.get(op, self.model.hidden / measured.hidden)
            one = times.times[0]
            found.append(Curve(times.sizes, tuple(one + ratio * max(0, t - one) for t in times.times)))
        return total(found)

    @cached_property
    def _all_reduce(self) -> Curve:
        """ms against elements of 2 bytes (vidur's all-reduces, given in bytes, agree at twice the size)."""
        rows = records(self.folder / self.tables.allreduce)
        wanted = ("vllm_graph", str(self.tensor_parallel))
        points = [
            (r["message_size"], r["latency_ms"]) for r in rows if (r["backend"], r["num_gpus"]) == wanted
        ]
        return curve((int(size), float(time)) for size, time in points)

    @cached_property
    def _prompts(self) -> Mapping[int, Curve]:
        """Batch -> ms of one layer's attention over fresh prompts against their length."""
        return self._attention(self.tables.context, "seq_len", self.heads)

    @cached_property
    def _decodes(self) -> tuple[float, Mapping[int, Curve]]:
        """(requests in the table for one of ours, context -> ms of a layer's attention against requests)."""
        per_request, times = 1.0, self._attention(self.tables.generation, "kv_len", self.heads)
        if not times:
            # One KV head of one request is one piece of work: where the H200 table has both, 32 requests of
            # 8 heads take 0.98 to 1.07 of the time of 8 requests of 32.
            per_request, times = self.heads[1] / 8, self._attention(self.tables.generation, "kv_len", (8, 8))
        points: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for batch, against in times.items():
            for cached, time in zip(against.sizes, against.times, strict=True):
                points[int(cached) + 1].append((batch, time))
        return per_request, {context: curve(values) for context, values in points.items()}

    def _attention(self, file: str, column: str, heads: Heads) -> dict[int, Curve]:
        """Batch -> curve against `column`."""
        points: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for row in records(self.folder / file):
            if (int(row["num_heads"]), int(row["num_key_value_heads"])) == heads:
                points[int(row["batch_size"])].append((int(row[column]), float(row["latency_ms"])))
        return {batch: curve(values) for batch, values in points.items()}

    def decode_attention(self, batch: int, context: int) -> float:
        """ms of one layer: `batch` decodes that attend to `context` tokens each."""
        per_request, curves = self._decodes
        return curves[context](batch * per_request) if batch else 0.0

    def chunk_attention(self, num_tokens: int, start: int) -> float:
        """ms of one layer: a chunk behind `start` tokens is the whole prompt less its beginning."""
        if not num_tokens:
            return 0.0
        prompt = self._prompts[1]
        before = prompt(start) if start else 0.0
        return max(prompt(start + num_tokens) - before, prompt(num_tokens))

    def prompts_attention(self, batch: int, length: int) -> float:
        """ms of one layer: `batch` fresh prompts of `length` tokens."""
        return self._prompts[batch](length)

    def seconds(self, tokens: int, attention: float, sampled: int) -> float:
        """A whole step: `attention` is ms of one layer, `sampled` the rows that draw a token."""
        reduced = 2 * self._all_reduce(tokens * self.model.hidden) if self.tensor_parallel > 1 else 0.0
        return MS * (self.model.layers * (self.layer(tokens) + attention + reduced) + self.head(sampled))
