"""The gate: may this model run over a paged pool, in a flattened batch, and say the same words?

Many models would run and be silently wrong: they keep state elsewhere, ask for a mask that the paged
attention does not apply, or compute positions from the whole row. The gate looks at what the model says
of itself, watches one tiny forward pass, and compares a chunked, mixed, paged run with a plain one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from brim.core.errors import ModelRefused
from brim.engines.local.attention import LayerGeometry
from brim.engines.local.model import PagedModel

PROBE = "brim_probe"
DEFAULT_POSITIONS = 4096
LAYER_TYPES = {"full_attention", "sliding_attention"}
ROPE_TYPES_REFUSED = {"dynamic", "longrope"}
# What paged attention applies, or what changes nothing in inference without transformers' own cache.
ARGUMENTS_UNDERSTOOD = {
    *("scaling", "sliding_window", "softcap", "s_aux"),
    *("dropout", "is_causal", "position_ids", "use_cache", "return_dict"),
}
# Largest root mean square of the difference, over that of the logits themselves.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 0.05, torch.bfloat16: 0.15}

MaskFunction = Callable[[int, int, torch.Tensor, torch.Tensor], torch.Tensor]


class Call(NamedTuple):
    """One call of the attention function, as the probe saw it."""

    geometry: LayerGeometry
    mask: MaskFunction | None
    arguments: Mapping[str, Any]


class Recorder:
    """Stands in for attention and mask building, and writes down what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._masks: list[tuple[torch.Tensor, MaskFunction]] = []

    def mask(
        self, batch_size: int, q_length: int, kv_length: int, mask_function: MaskFunction, **how: Any
    ) -> Any:
        dtype, device = how.get("dtype", torch.float32), how.get("device")
        mask = torch.zeros(batch_size, 1, q_length, kv_length, dtype=dtype, device=device)
        self._masks.append((mask, mask_function))
        return mask

    def attention(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **arguments: Any,
    ) -> tuple[torch.Tensor, None]:
        geometry = LayerGeometry(module, query.shape[1], key.shape[1], key.shape[3], value.shape[3])
        self.calls.append(Call(geometry, self._function_of(attention_mask), arguments))
        return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None

    def _function_of(self, mask: torch.Tensor | None) -> MaskFunction | None:
        if mask is None:
            return None
        for made, function in self._masks:
            if int(made.data_ptr()) == int(mask.data_ptr()):
                return function
        raise ModelRefused("it builds an attention mask of its own")


_recorder: ContextVar[Recorder] = ContextVar("recorder")
AttentionInterface.register(PROBE, lambda *args, **kwargs: _recorder.get().attention(*args, **kwargs))
AttentionMaskInterface.register(PROBE, lambda *args, **kwargs: _recorder.get().mask(*args, **kwargs))


def max_positions(model: Any) -> int:
    """The context the model was made for; where it names none, what nearly every model can do."""
    named = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(named or DEFAULT_POSITIONS)


def examine(model: Any) -> list[LayerGeometry]:
    """The attention layers of `model`, in order. Raises ModelRefused with the reason."""
    _check_claims(model)
    config = model.config.get_text_config()
    calls = _probe(model)
    modules = {id(call.geometry.module) for call in calls}
    if len(calls) != config.num_hidden_layers or len(modules) != len(calls):
        raise ModelRefused(
            f"its {config.num_hidden_layers} layers call the attention interface {len(calls)} times, from "
            f"{len(modules)} modules: each layer should once, or it keeps a state that is not paged"
        )
    for layer, call in enumerate(calls):
        _check_call(call, f"layer {layer}", max_positions(model))
    return [call.geometry for call in calls]


def _check_claims(model: Any) -> None:
    """What the model's class and configuration say."""
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        raise ModelRefused("it is an encoder-decoder model; only decoder-only ones are served")
    if not model.is_backend_compatible():
        raise ModelRefused("its attention does not go through transformers' attention interface")
    if model._is_stateful:
        raise ModelRefused("it keeps a recurrent state")
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise ModelRefused("its forward pass cannot return the logits of chosen tokens only")
    unknown = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if unknown:
        raise ModelRefused(f"it has layers of type {', '.join(sorted(unknown))}")
    if getattr(config, "attn_temperature_tuning", None):  # begins far past the self-check
        raise ModelRefused(
            "its attention is scaled by a token's place in the batch, not in its own text "
            "(attn_temperature_tuning)"
        )
    refused = ROPE_TYPES_REFUSED & set(_rope_types(getattr(config, "rope_parameters", None)))
    if refused:
        raise ModelRefused(
            f"its rope type {', '.join(sorted(refused))} takes one frequency table for a whole batch: "
            "a neighbour's length would change the text"
        )


def _rope_types(parameters: Any) -> Iterator[str]:
    """Rope parameters are one mapping, or one for each type of layer."""
    if isinstance(parameters, Mapping):
        if isinstance(parameters.get("rope_type"), str):
            yield parameters["rope_type"]
        for value in parameters.values():
            yield from _rope_types(value)


def _probe(model: Any) -> list[Call]:
    recorder = Recorder()
    before = model.config._attn_implementation
    token = _recorder.set(recorder)
    try:
        model.set_attn_implementation(PROBE)
        ids = torch.arange(3, device=model.device)[None]
        with torch.inference_mode():
            model(input_ids=ids, position_ids=ids, use_cache=False)
    except ModelRefused:
        raise
    except Exception as error:
        raise ModelRefused(f"a forward pass without a cache failed: {error!r}") from error
    finally:
        model.set_attn_implementation(before)
        _recorder.reset(token)
    return recorder.calls


def _check_call(call: Call, name: str, max_positions: int) -> None:
    """Does paged attention do all that this layer asks of attention?"""
    asked = {key for key, value in call.arguments.items() if value is not None and value is not False}
    unknown = asked - ARGUMENTS_UNDERSTOOD
    if unknown:
        raise ModelRefused(f"{name} passes unknown arguments to attention: {', '.join(sorted(unknown))}")
    bidirectional = call.arguments.get("is_causal") is False or not getattr(
        call.geometry.module, "is_causal", True
    )
    if bidirectional:
        raise ModelRefused(f"{name} attends to later tokens")
    if call.geometry.query_heads % call.geometry.kv_heads:
        raise ModelRefused(f"{name} shares KV heads unevenly")
    if call.mask is None:
        raise ModelRefused(f"{name} asks for no mask: what it may see is not known")
    window = call.arguments.get("sliding_window")
    for query, key in _telling_positions(window, max_positions):
        applied = key <= query and (window is None or key > query - window)
        if _asks(call.mask, query, key) != applied:
            raise ModelRefused(
                f"{name} has another mask than the causal one with window {window}: position {query} "
                f"{'should not' if applied else 'should'} see position {key}"
            )


def _telling_positions(window: int | None, max_positions: int) -> Iterator[tuple[int, int]]:
    """(query, key) pairs at which one kind of mask differs from another."""
    for query in (1, max_positions // 2, max_positions - 1):
        yield query, query
        yield query, query + 1
        yield query, query - 1
        yield query, 0
        for key in () if window is None else (query - window, query - window + 1):
            if key >= 0:
                yield query, key


def _asks(mask: MaskFunction, query: int, key: int) -> bool:
    try:
        return bool(mask(0, 0, torch.tensor(query), torch.tensor(key)))
    except Exception as error:
        raise ModelRefused(f"its mask can't be read at positions {query}, {key}: {error!r}") from error


class SelfCheck:
    """Compares a chunked, mixed, paged run with plain forward passes. Make it before the model is paged."""

    def __init__(self, model: Any, block_size: int, vocab_size: int) -> None:
        draw = np.random.default_rng(0)
        lengths = (min(2 * block_size + 5, max_positions(model)), 7)
        self._sequences = [draw.integers(0, vocab_size, length) for length in lengths]
        self._block_size = block_size
        needed = [-(-length // block_size) for length in lengths]
        self.num_blocks = sum(needed) + 1
        shuffled = draw.permutation(self.num_blocks).tolist()
        self._tables = [shuffled[: needed[0]], shuffled[needed[0] : sum(needed)]]
        with torch.inference_mode():
            inputs = [torch.from_numpy(ids)[None].to(model.device) for ids in self._sequences]
            self._plain = [model(input_ids=ids, use_cache=False).logits[0] for ids in inputs]

    def run(self, paged: PagedModel) -> None:
        """Needs a pool of at least `num_blocks` blocks. Raises ModelRefused where the logits differ."""
        long, short = len(self._sequences[0]), len(self._sequences[1])
        middle = self._block_size + 3
        # Each row: (sequence, start, end). A fresh mixed step, a chunk beside a decode, two decodes.
        steps = [
            [(0, 0, middle), (1, 0, short - 2)],
            [(1, short - 2, short - 1), (0, middle, long - 1)],
            [(0, long - 1, long), (1, short - 1, short)],
        ]
        for rows in steps:
            logits = self._step(paged, rows)
            plain = torch.stack([self._plain[sequence][end - 1] for sequence, _, end in rows])
            self._compare(logits.double(), plain.double(), paged.dtype)

    def _step(self, paged: PagedModel, rows: list[tuple[int, int, int]]) -> torch.Tensor:
        return paged.step(
            np.concatenate([self._sequences[sequence][start:end] for sequence, start, end in rows]),
            np.array([end - start for _, start, end in rows]),
            np.array([start for _, start, _ in rows]),
            [self._tables[sequence] for sequence, _, _ in rows],
            np.arange(len(rows)),
        )

    @staticmethod
    def _compare(logits: torch.Tensor, plain: torch.Tensor, dtype: torch.dtype) -> None:
        error = (logits - plain).square().mean(-1).sqrt()
        size = (plain - plain.mean(-1, keepdim=True)).square().mean(-1).sqrt()
        worst = float((error / size.clamp_min(1e-12)).max())
        if not worst <= TOLERANCE[dtype]:
            raise ModelRefused(
                f"its paged logits differ from plain ones by {worst:.2g} of their size in {dtype}"
            )
