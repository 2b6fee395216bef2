"""An analytic step time for a dense BF16 model on a GPU with public figures: a roofline, nothing measured.

A step takes the longer of reading the weights and multiplying the tokens, which is a constant and one knee;
attention of prompts is bound by FLOP/s, that of decodes by reading the KV cache. Each is slowed by a share of
the peak that the fitted profiles reach; docs/profiles.md says how far the result lies from them.
"""

from __future__ import annotations

from datetime import date

from brim.core.estimators.step_time import PICOSECONDS, StepTime
from brim.profiles.loader import Profile
from brim.profiling.gpus import Gpu, memory_of
from brim.profiling.models import WEIGHT_BYTES, ModelSizes

MATRIX_SHARE = 0.80  # of peak FLOP/s in matrices; the fitted profiles reach 0.69 to 1.0
PROMPT_ATTENTION_SHARE = 0.50  # of peak FLOP/s
BANDWIDTH_SHARE = 0.75  # of peak bytes/s, for weights and KV; fitted: 0.70 to 0.93
SMALL_OP_BYTES = 24  # read and written per layer, token and unit of width, by norms, activation and rope
KERNEL_SECONDS = 45e-6  # floors of a layer's kernels beside its matrices: attention, norms, rope, activation
REDUCE_SECONDS = 10e-6  # floor of one all-reduce


def roofline(name: str, model: ModelSizes, gpu: Gpu, tensor_parallel: int = 1) -> Profile:
    """The profile of `tensor_parallel` GPUs. Raises ConfigError where they can't share or hold the model."""
    model.refuse_uneven(tensor_parallel)
    memory = memory_of(gpu, model, tensor_parallel)
    memory.kv_tokens()
    step_time = _step_time(model, gpu, tensor_parallel)
    return Profile(
        name=name,
        gpu=gpu.name,
        model=model.name,
        tensor_parallel=tensor_parallel,
        kind="roofline",
        source=f"analytic: {gpu.source}; {gpu.flops / 1e12:g} TFLOP/s, {gpu.bandwidth / 1e9:g} GB/s per GPU",
        date=date.today().isoformat(),
        notes=(
            "Analytic, not measured.",
            f"Shares of the peak: matrices {MATRIX_SHARE:.0%}, attention of prompts "
            f"{PROMPT_ATTENTION_SHARE:.0%}, memory {BANDWIDTH_SHARE:.0%}.",
            "Attention over the whole context is assumed: a sliding window would be faster.",
        ),
        step_time=step_time,
        fit=None,
        memory=memory,
        target_forward_tokens=step_time.target_forward_tokens(),
    )


def _step_time(model: ModelSizes, gpu: Gpu, tensor_parallel: int) -> StepTime:
    flops, bandwidth = gpu.flops * tensor_parallel, gpu.bandwidth * tensor_parallel * BANDWIDTH_SHARE
    multiply = 2 * model.linear_parameters / (flops * MATRIX_SHARE)
    reading = WEIGHT_BYTES * (model.linear_parameters + model.head_parameters) / bandwidth
    reduce_floor, reduce_token = _all_reduce(model, gpu, tensor_parallel)
    small = SMALL_OP_BYTES * model.layers * model.hidden / bandwidth + reduce_token
    width = model.heads * model.head_dim
    pair = 4 * model.layers * width / (flops * PROMPT_ATTENTION_SHARE)
    return StepTime(
        constant_ps=_ps(reading + model.layers * KERNEL_SECONDS + reduce_floor),
        per_token_ps=_ps(small),
        knees=((round(reading / multiply), _ps(multiply)),),
        per_pair_ps=_ps(pair),
        per_decode_ps=0,
        per_context_ps=_ps(model.kv_bytes_on(tensor_parallel) / bandwidth),
    )


def _all_reduce(model: ModelSizes, gpu: Gpu, tensor_parallel: int) -> tuple[float, float]:
    """(floor, per token) seconds of two all-reduces a layer: each GPU sends nearly all of it twice."""
    if tensor_parallel == 1:
        return 0.0, 0.0
    sent = 2 * (tensor_parallel - 1) / tensor_parallel * WEIGHT_BYTES * model.hidden
    calls = 2 * model.layers
    return calls * REDUCE_SECONDS, calls * sent / (gpu.link * BANDWIDTH_SHARE)


def _ps(seconds: float) -> int:
    return round(seconds * PICOSECONDS)
