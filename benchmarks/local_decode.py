"""Decode speed of the local engine beside other ways to run the same model on the same CPU.

    python benchmarks/local_decode.py --sizes 25M 120M --dtypes float32 --batches 1 8 32 64
    python benchmarks/local_decode.py --vllm-python /path/to/python --json figures.json

Models are llama-shaped with random weights; every request has a prompt of 128 tokens of its own. Counted
is the time between steps while the whole batch decodes: tokens per second = batch / median gap. The
contenders take turns, `--rounds` times, and the median of the rounds is printed, with ratios to Brim.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 128
BLOCK_SIZE = 16
SHAPES = {  # hidden size, intermediate size, layers, heads
    "25M": (384, 1024, 8, 6),
    "120M": (768, 2048, 15, 12),
}
Prompts = Sequence[Sequence[int]]
Contender = Callable[[Prompts, int], float]  # prompts, tokens to decode -> seconds between steps
Maker = Callable[[Path, str], Contender]  # model folder, dtype


def save_model(size: str, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from brim.engines.local import builtin

    hidden, intermediate, layers, heads = SHAPES[size]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 3,
        vocab_size=32000,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    builtin.make_tokenizer().save_pretrained(folder)


def make_prompts(batch: int) -> Prompts:
    import random

    draw = random.Random(batch)
    return [[draw.randrange(10, 32000) for _ in range(PROMPT_TOKENS)] for _ in range(batch)]


def median_gap(times: Sequence[float]) -> float:
    return statistics.median(b - a for a, b in itertools.pairwise(times))


def brim(folder: Path, dtype: str) -> Contender:
    """The local engine, its plans made by hand."""
    from brim.core.plan import Chunk, StepPlan
    from brim.core.request import Request, RequestState
    from brim.engines.local.load import load

    engine, _ = load(str(folder), dtype=dtype, device="cpu", num_blocks=1024, block_size=BLOCK_SIZE)

    def run(prompts: Prompts, tokens: int) -> float:
        states = [RequestState(Request(str(at), prompt), at) for at, prompt in enumerate(prompts)]
        blocks = -(-(PROMPT_TOKENS + tokens) // BLOCK_SIZE)
        for at, state in enumerate(states):
            state.block_ids = list(range(at * blocks, (at + 1) * blocks))
            state.admit(0)
            state.schedule(PROMPT_TOKENS)
            engine.begin(StepPlan(0, (), (Chunk(state, 0, PROMPT_TOKENS, True),)))
            state.append(engine.finish().token_ids[0])
        times = [time.perf_counter()]
        for step in range(tokens - 1):
            for state in states:
                state.schedule(1)
            engine.begin(StepPlan(step, tuple(states)))
            for state, token in zip(states, engine.finish().token_ids, strict=True):
                state.append(token)
            times.append(time.perf_counter())
        return median_gap(times)

    return run


def generate(folder: Path, dtype: str) -> Contender:
    """`model.generate` of the whole batch at once."""
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

    class Clock(StoppingCriteria):
        def __init__(self) -> None:
            self.times: list[float] = []

        def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
            self.times.append(time.perf_counter())
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def run(prompts: Prompts, tokens: int) -> float:
        clock = Clock()
        ids = torch.tensor(prompts)
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return median_gap(clock.times)

    return run


def generate_batch(folder: Path, dtype: str) -> Contender:
    """transformers' own continuous batching."""
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    settings = {"num_blocks": 1024, "page_size": BLOCK_SIZE, "max_batch_tokens": 8192}

    def run(prompts: Prompts, tokens: int) -> float:
        outputs = model.generate_batch(
            [list(prompt) for prompt in prompts],
            generation_config=GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(**settings, allow_block_sharing=False),
            record_timestamps=True,
        )
        all_run = max(output.timestamps[0] for output in outputs.values())
        ends = min(output.timestamps[-1] for output in outputs.values())
        some = next(iter(outputs.values()))
        return median_gap([at for at in some.timestamps if all_run <= at <= ends])

    return run


VLLM = """
import json, sys, time
if __name__ == "__main__":
    folder, dtype, tokens, prompts = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.load(sys.stdin)
    from vllm import EngineArgs, LLMEngine, SamplingParams
    engine = LLMEngine.from_engine_args(EngineArgs(
        model=folder, dtype=dtype, enforce_eager=True, enable_prefix_caching=False, max_model_len=512,
        max_num_seqs=len(prompts), max_num_batched_tokens=8192, disable_log_stats=True))
    found = []
    for turn in range(2):
        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        for at, prompt in enumerate(prompts):
            engine.add_request(f"{turn}-{at}", {"prompt_token_ids": prompt}, params)
        times = []
        while engine.has_unfinished_requests():
            outputs = engine.step()
            if len(outputs) == len(prompts):
                times.append(time.perf_counter())
        found.append(sorted(b - a for a, b in zip(times, times[1:]))[len(times) // 2])
    print("GAP", found[-1])
"""


def vllm(python: str, threads: int) -> Maker:
    """vLLM's CPU build, from another Python; in one process, eager, without prefix cache."""
    settings = {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",  # else it takes every core
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
    }

    def make(folder: Path, dtype: str) -> Contender:
        def run(prompts: Prompts, tokens: int) -> float:
            done = subprocess.run(
                [python, "-c", VLLM, str(folder), dtype, str(tokens)],
                input=json.dumps([list(prompt) for prompt in prompts]),
                capture_output=True,
                text=True,
                env=settings,
            )
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            return float(done.stdout.rpartition("GAP")[2])

        return run

    return make


def measure(args: argparse.Namespace, makers: dict[str, Maker]) -> list[dict[str, Any]]:
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            save_model(size, Path(name))
            for dtype in args.dtypes:
                contenders = {who: make(Path(name), dtype) for who, make in makers.items()}
                for batch in args.batches:
                    prompts = make_prompts(batch)
                    gaps: dict[str, list[float]] = {who: [] for who in contenders}
                    for _ in range(args.rounds):
                        for who, run in contenders.items():
                            gaps[who].append(run(prompts, args.tokens))
                    speeds = {who: batch / statistics.median(found) for who, found in gaps.items()}
                    rows.append({"size": size, "dtype": dtype, "batch": batch, "tokens_per_second": speeds})
                    show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    speeds = row["tokens_per_second"]
    cells = [f"{who} {speed:8.1f} ({speeds['brim'] / speed:4.2f}x)" for who, speed in speeds.items()]
    print(f"{row['size']:>5} {row['dtype']:>9} {row['batch']:>3}  " + "  ".join(cells), flush=True)


def parse() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--tokens", type=int, default=32, help="decoded for each request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip", nargs="*", default=[], help="contenders to leave out")
    parser.add_argument("--vllm-python", help="a Python that can import vllm")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


def main() -> None:
    import torch
    from transformers.utils import logging

    args = parse()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    makers = {"brim": brim, "generate": generate, "generate_batch": generate_batch}
    if args.vllm_python:
        makers["vllm"] = vllm(args.vllm_python, args.threads)
    rows = measure(args, {who: make for who, make in makers.items() if who not in args.skip})
    if args.json:
        host = {"machine": platform.machine(), "threads": args.threads, "torch": torch.__version__}
        args.json.write_text(json.dumps({"host": host, "python": sys.version, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
