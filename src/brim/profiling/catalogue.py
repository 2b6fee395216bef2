"""The shipped profiles: from which tables each is made, and what a reader must know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from difflib import get_close_matches
from pathlib import Path

from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepTime
from brim.profiles.loader import Fit, Profile, PublishedCapacity
from brim.profiling.fitting import Row, Weight, alike, everyday_first, fit
from brim.profiling.gpus import GPUS, Gpu, memory_of
from brim.profiling.kernels import SMALL_OPS, Kernels, SmallOps, Tables
from brim.profiling.llmservingsim import Layers
from brim.profiling.measured import h100_tpots, rtx_step_seconds, told
from brim.profiling.models import PRESETS, ModelSizes
from brim.profiling.simdistserve import Formulas
from brim.profiling.steps import LARGEST_STEP, steps

Pairs = list[tuple[float, float]]  # (measured, predicted) seconds


@dataclass(frozen=True)
class Recipe:
    """`rows(folder, KV tokens)` gives the steps, `compare` a measured run, `published` the KV tokens."""

    gpu: Gpu
    model: ModelSizes
    source: str
    notes: tuple[str, ...]
    rows: Callable[[Path, int], list[Row]]
    tensor_parallel: int = 1
    published: Callable[[Path], int] | None = None
    compare: tuple[str, Callable[[Path, StepTime], Pairs]] | None = None
    weight: Weight = alike
    error: float | None = None

    def make(self, name: str, folder: Path) -> Profile:
        """Fits the profile to the data in `folder`. Raises ConfigError where a file is missing."""
        memory = memory_of(self.gpu, self.model, self.tensor_parallel)
        if self.published:
            capacity = PublishedCapacity(self.published(folder), "DistServe, simdistserve/max_num_tokens.csv")
            memory = replace(memory, published=capacity)
        rows = self.rows(folder, memory.kv_tokens())
        step_time, errors = fit(rows, self.weight)
        largest = min(LARGEST_STEP, max(row.shape.new_tokens for row in rows))
        return Profile(
            name=name,
            gpu=self.gpu.name,
            model=self.model.name,
            tensor_parallel=self.tensor_parallel,
            kind="fitted",
            source=self.source,
            date=date.today().isoformat(),
            notes=self.notes,
            step_time=step_time,
            fit=self._compared(errors, folder, step_time),
            memory=memory,
            target_forward_tokens=step_time.target_forward_tokens(largest=largest),
            error=self.error,
        )

    def _compared(self, errors: Fit, folder: Path, step_time: StepTime) -> Fit:
        if not self.compare:
            return errors
        what, pairs = self.compare
        return replace(errors, comparisons=(told(what, pairs(folder, step_time)),))


def recipe(name: str) -> Recipe:
    """Raises ConfigError for an unknown name, with the nearest one."""
    if name not in RECIPES:
        close = get_close_matches(name, RECIPES, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"no recipe makes the profile {name}: {hint}There are {', '.join(RECIPES)}")
    return RECIPES[name]


LLAMA_2, LLAMA_3, LLAMA_3_1 = PRESETS["llama-2-7b"], PRESETS["llama-3-8b"], PRESETS["llama-3.1-8b"]
A100_SMALL_2 = SmallOps("vidur/a100_Llama-2-7b-hf_mlp.csv.gz", LLAMA_2)
A100_SMALL_3 = SmallOps("vidur/a100_Meta-Llama-3-8B_mlp.csv.gz", LLAMA_3)
H100_SMALL = SmallOps("vidur/h100_Llama-2-7b-hf_mlp.csv.gz", LLAMA_2)
WITHOUT_ROPE = tuple(op for op in SMALL_OPS if op != "attn_rope_ms")
OPT_SMALL = SmallOps("vidur/a100_Llama-2-70b-hf_mlp.csv.gz", PRESETS["llama-2-70b"], 8, WITHOUT_ROPE)

AICONFIGURATOR = "NVIDIA aiconfigurator 095f58a5 (Apache-2.0), kernels of vLLM {version} on {gpu} SXM, BF16"
COMPOSED = (
    "Whole steps put together from kernel times: matrices (straight lines between the shapes of the table), "
    "attention, and norms, rope and activation from vidur 7d475133 (MIT).",
    "In a mixed step the attention of prompts and of decodes is the sum of both; an engine that takes them "
    "in one kernel is slower (see the RTX profiles).",
    "No host or launch overhead is added: measured runs of Llama-3.1-8B on H100 leave no room for any (see "
    "the comparison in h100-llama-3-8b), though they are of another engine, TensorRT-LLM.",
)
ALIKE = (
    "The table has no decodes with 32 KV heads: 8 KV heads with four times the requests stand in for them."
)
H100_OPS = "Norms, rope and activation are those of Llama-2-7B on H100, in proportion to the widths."
APART = 0.15  # vLLM's versions
NEXT_GPU = (
    f"The tables are of different vLLM versions: do not compare GPUs to better than {100 * APART:.0f} %."
)


def _tables(gpu: str, version: str, allreduce: str) -> Tables:
    start = f"aiconfigurator/{gpu}_sxm"
    return Tables(
        gemm=f"{start}_gemm_bf16_vllm{version}.csv.gz",
        context=f"{start}_context_attention_bf16_hd128_vllm{version}.csv.gz",
        generation=f"{start}_generation_attention_bf16_hd128_vllm{version}.csv.gz",
        allreduce=f"{start}_allreduce_vllm{allreduce}.csv.gz",
    )


TABLES = {
    "a100": ("0.14.0", _tables("a100", "0.14.0", "0.14.0"), GPUS["a100-80g"]),
    "h100": ("0.24.0", _tables("h100", "0.24.0", "0.24.0"), GPUS["h100"]),
    "h200": ("0.22.0", _tables("h200", "0.22.0", "0.24.0"), GPUS["h200"]),
}


def _composed(
    key: str,
    model: ModelSizes,
    small: SmallOps,
    *notes: str,
    tensor_parallel: int = 1,
    published: Callable[[Path], int] | None = None,
    compare: tuple[str, Callable[[Path, StepTime], Pairs]] | None = None,
) -> Recipe:
    version, tables, gpu = TABLES[key]

    def rows(folder: Path, kv_tokens: int) -> list[Row]:
        return steps(Kernels(folder, tables, small, model, tensor_parallel), kv_tokens)

    source = AICONFIGURATOR.format(version=version, gpu=key.upper())
    told = (*COMPOSED, NEXT_GPU, *notes)
    return Recipe(gpu, model, source, told, rows, tensor_parallel, published, compare, error=APART)


def _layered(
    gpu: str, prefix: str, compare: tuple[str, Callable[[Path, StepTime], Pairs]] | None = None
) -> Recipe:
    def rows(folder: Path, kv_tokens: int) -> list[Row]:
        return Layers(folder, f"{prefix}_Llama-3.1-8B_bf16_tp1", LLAMA_3_1).steps(kv_tokens)

    source = f"LLMServingSim 5daddb21 (MIT), layers of vLLM on {GPUS[gpu].name}, BF16"
    notes = (
        "Whole steps = 32 layers, embedding, output matrix and sampler; attention of mixed batches was "
        "measured as one kernel.",
        "Short chunks (below 64 tokens) behind long contexts take up to twice what is said here: they cost "
        "as much as 64 tokens.",
        "Contexts beyond 4096 tokens weigh 0.3 in the fit, and a step by the root of its time.",
        "No host overhead is added.",
    )
    return Recipe(GPUS[gpu], LLAMA_3_1, source, notes, rows, compare=compare, weight=everyday_first)


def _opt(model: str, tensor_parallel: int) -> Recipe:
    def formulas(folder: Path) -> Formulas:
        return Formulas(folder, PRESETS[model].name, tensor_parallel)

    def rows(folder: Path, kv_tokens: int) -> list[Row]:
        return formulas(folder).steps(kv_tokens)

    source = "DistServe 82831f16 (Apache-2.0), simdistserve's fits of vLLM on A100 SXM 80GB, FP16"
    notes = (
        "Steps are samples of published formulas for prefill and for decode, not measurements: the errors "
        "are those against the formulas.",
        "The vLLM of DistServe's comparison (2023-24): a step's constant is well above the time to read the "
        "weights, so its host work is in it; later versions are faster.",
        "Mixed steps aren't published: a decode step plus what the prompt tokens add to a prefill step.",
    )
    capacity = _capacity(model, tensor_parallel)
    return Recipe(GPUS["a100-80g"], PRESETS[model], source, notes, rows, tensor_parallel, capacity)


def _capacity(model: str, tensor_parallel: int) -> Callable[[Path], int]:
    return lambda folder: Formulas(folder, PRESETS[model].name, tensor_parallel).capacity()


RECIPES = {
    "a100-llama-2-7b": _composed("a100", LLAMA_2, A100_SMALL_2, ALIKE),
    "a100-llama-3-8b": _composed("a100", LLAMA_3, A100_SMALL_3),
    "a100-opt-13b": _opt("opt-13b", 1),
    "a100-opt-13b-tp2": _opt("opt-13b", 2),
    "a100-opt-66b": _opt("opt-66b", 4),
    "a100-opt-66b-tp8": _opt("opt-66b", 8),
    "a100-opt-175b": _composed(
        "a100",
        PRESETS["opt-175b"],
        OPT_SMALL,
        "DistServe published no times of OPT-175B: this is 8 GPUs' kernels and all-reduces of a recent vLLM, "
        "so do not compare it with a100-opt-13b and a100-opt-66b, which hold an older one's host work.",
        "Norms and activation are those of Llama-2-70B (tp 8), in proportion to the widths; decodes of 12 KV "
        "heads are those of 8 with half as many requests again.",
        tensor_parallel=8,
        published=_capacity("opt-175b", 8),
    ),
    "h100-llama-2-7b": _composed("h100", LLAMA_2, H100_SMALL, ALIKE),
    "h100-llama-3-8b": _composed(
        "h100",
        LLAMA_3,
        H100_SMALL,
        H100_OPS,
        compare=("TPOT of TensorRT-LLM 1.0rc3, Llama-3.1-8B on one H100 (aiconfigurator)", h100_tpots),
    ),
    "h200-llama-2-7b": _composed("h200", LLAMA_2, H100_SMALL, H100_OPS),
    "h200-llama-3-8b": _composed("h200", LLAMA_3, H100_SMALL, H100_OPS),
    "rtx4090-llama-3.1-8b": _layered("rtx4090", "RTX4090"),
    "rtxpro6000-llama-3.1-8b": _layered(
        "rtxpro6000",
        "RTXPRO6000",
        (
            "mean step of each second, 8 or more running, of a vLLM 0.19.0 run of ShareGPT at 10 requests/s "
            "(LLMServingSim)",
            rtx_step_seconds,
        ),
    ),
}
