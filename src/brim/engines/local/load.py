"""`load`: from the name of a model to an engine that runs it and a tokenizer that speaks it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from brim.core.errors import ConfigError, ModelRefused
from brim.engines.base import EngineCaps, Footprint
from brim.engines.local import builtin
from brim.engines.local.device import favour_small_batches, hardware, pick_device, pick_dtype
from brim.engines.local.device import kv_cache_bytes as default_kv_cache_bytes
from brim.engines.local.engine import LocalEngine
from brim.engines.local.gate import SelfCheck, examine, max_positions
from brim.engines.local.model import PagedModel
from brim.engines.local.tokenizer import HFTokenizer

DEFAULT_MAX_BLOCKS = 1 << 16
ACTIVATION_TOKENS = 2048  # of the step whose memory is measured


def load(
    model: str | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    num_blocks: int | None = None,
    kv_cache_bytes: int | None = None,
    block_size: int = 16,
    max_model_len: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[LocalEngine, HFTokenizer]:
    """Loads `model`, a folder or a Hugging Face id; None or "builtin" is a small random one made here.

    The KV cache has `num_blocks` blocks of `block_size` tokens, or as many as `kv_cache_bytes` hold, or
    else what the free memory allows. `max_model_len` is what the model and the cache hold, unless less is
    asked for. The built-in model's files are kept in `cache_dir`, if given. `seed` decides the draws of
    requests that bring none. `progress` is told, in plain words, what is being done.

    Raises ConfigError where a setting is wrong or files are missing, ModelRefused for a model that would
    not run correctly.
    """
    if block_size < 1:
        raise ConfigError(f"block_size must be at least 1, not {block_size}")
    tell = progress or (lambda text: None)
    where = pick_device(device)
    number = pick_dtype(dtype, where)
    with tempfile.TemporaryDirectory() as scratch:
        name = builtin.NAME if model is None else model
        # A real model may be a long download, whose bars transformers and huggingface_hub draw.
        with _no_progress_bars() if progress is None or name == builtin.NAME else nullcontext():
            source = str(builtin.ensure(Path(cache_dir or scratch))) if name == builtin.NAME else name
            _check_source(source)
            tell(f"Loading {name} as {str(number).removeprefix('torch.')} on {where}")
            tokenizer, network = _read_tokenizer(source), _read_model(source, number, where)
    ends = _eos_token_ids(network)
    tell("Checking that the model runs correctly over a paged KV cache")
    try:
        paged, vocab_size = open_model(network, block_size)
    except ModelRefused as refusal:
        raise ModelRefused(f"{name} can't be run by the local engine: {refusal}") from refusal
    blocks = _default_blocks(paged, vocab_size, kv_cache_bytes) if num_blocks is None else num_blocks
    if blocks < 1:
        raise ConfigError("no memory is left for the KV cache: use a smaller model or give kv_cache_bytes")
    paged.allocate(blocks)
    caps = EngineCaps(
        name="local",
        model=name,
        num_blocks=blocks,
        block_size=block_size,
        max_model_len=_max_model_len(network, max_model_len, blocks * block_size),
        vocab_size=vocab_size,
        device=str(where),
        dtype=str(number).removeprefix("torch."),
        note=builtin.NOTE if name == builtin.NAME else None,
        footprint=_footprint(network, paged),
    )
    tell(f"KV cache: {blocks} blocks of {block_size} tokens, {blocks * paged.block_bytes / 2**20:.0f} MiB")
    return LocalEngine(paged, caps, seed=seed), HFTokenizer(tokenizer, ends)


def _footprint(network: Any, paged: PagedModel) -> Footprint:
    name, memory_bytes = hardware(paged.device)
    weight_bytes = sum(each.numel() * each.element_size() for each in network.parameters())
    return Footprint(name, memory_bytes, weight_bytes, paged.block_bytes // paged.block_size)


def open_model(network: Any, block_size: int) -> tuple[PagedModel, int]:
    """Puts a transformers model through the gate.

    Returns it over a pool of a few blocks, and the size of its vocabulary. Raises ModelRefused.
    """
    favour_small_batches(network.eval())
    vocab_size = network.get_input_embeddings().weight.shape[0]
    geometry = examine(network)
    check = SelfCheck(network, block_size, vocab_size)
    paged = PagedModel(network, geometry, block_size)
    paged.allocate(check.num_blocks)
    check.run(paged)
    return paged, vocab_size


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_source(source: str) -> None:
    folder = Path(source)
    if not folder.is_dir():
        if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
            raise ConfigError(
                f"there is no model folder {source}: give a folder or a Hugging Face id, owner/name"
            )
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{source} has no config.json: it is not the folder of a Hugging Face model")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{source} has no *.safetensors files; weights in other formats are not loaded")


def _read_tokenizer(source: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise ConfigError(f"{source} has no tokenizer that can be read: {_advice(source, error)}") from error
    if not tokenizer.encode("a", add_special_tokens=False):  # what transformers makes where it finds no files
        raise ConfigError(f"{source} has no tokenizer: tokenizer.json or its like is missing")
    return tokenizer


def _read_model(source: str, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        config = AutoConfig.from_pretrained(source)
    except Exception as error:
        raise ConfigError(f"the configuration of {source} can't be read: {_advice(source, error)}") from error
    if config.is_encoder_decoder:
        raise ModelRefused(f"{source} is an encoder-decoder model; only decoder-only ones are served")
    try:
        network, report = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            device_map={"": device} if device.type != "cpu" else None,
            use_safetensors=True,
            output_loading_info=True,
        )
    except ValueError as error:
        raise ModelRefused(f"{source} is not a model that writes text: {error}") from error
    except OSError as error:
        raise ConfigError(f"the weights of {source} can't be read: {_advice(source, error)}") from error
    absent = sorted([*report["missing_keys"], *report["mismatched_keys"]])
    if absent:
        raise ModelRefused(f"the files of {source} lack {len(absent)} of its weights, {absent[0]} for one")
    return network


def _advice(source: str, error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    if Path(source).is_dir():
        return first
    return (
        f"{first}\nIt is not a folder here, so it was looked up on Hugging Face. Without a connection, or "
        f"for a private model: download it first (`hf download {source}`) or give the path of a folder."
    )


def _eos_token_ids(network: Any) -> list[int]:
    generation = network.generation_config
    ids = None if generation is None else generation.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _max_model_len(network: Any, wanted: int | None, capacity_tokens: int) -> int:
    context = max_positions(network)
    if wanted is not None and wanted > min(context, capacity_tokens):
        raise ConfigError(
            f"max_model_len {wanted} is more than the model's context of {context} tokens or the KV cache of "
            f"{capacity_tokens}: lower it, or give the cache more room"
        )
    return min(context, capacity_tokens) if wanted is None else wanted


def _default_blocks(paged: PagedModel, vocab_size: int, given_bytes: int | None) -> int:
    if given_bytes is not None:
        return given_bytes // paged.block_bytes
    free = default_kv_cache_bytes(paged.device, _activation_bytes(paged, vocab_size))
    return min(free // paged.block_bytes, DEFAULT_MAX_BLOCKS)


def _activation_bytes(paged: PagedModel, vocab_size: int) -> int:
    """Measured on a GPU; on a CPU the share taken is small enough without."""
    if paged.device.type != "cuda":
        return 0
    blocks = -(-ACTIVATION_TOKENS // paged.block_size)
    paged.allocate(blocks)
    torch.cuda.reset_peak_memory_stats(paged.device)
    before = int(torch.cuda.memory_allocated(paged.device))
    tokens: np.ndarray = np.arange(ACTIVATION_TOKENS) % vocab_size
    paged.step(tokens, np.array([ACTIVATION_TOKENS]), np.array([0]), [range(blocks)], np.array([0]))
    return int(torch.cuda.max_memory_allocated(paged.device)) - before
