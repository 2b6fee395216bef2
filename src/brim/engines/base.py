"""The engine protocol: begin a plan, finish it. And what a server needs to know of a model's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from brim.core.plan import StepPlan, StepResult


@dataclass(frozen=True, slots=True)
class Footprint:
    """The device that an engine runs on, and what its model takes there."""

    hardware: str
    memory_bytes: int
    weight_bytes: int
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class EngineCaps:
    """What an engine is and can hold; fixed once it is made.

    `depth` is how many plans may be under way at once: 2 where the next plan can be made while the
    device still runs the last one. `note` is said to every user, e.g. that the words mean nothing.
    `footprint` is None where no model is run.
    """

    name: str
    model: str
    num_blocks: int
    block_size: int
    max_model_len: int
    vocab_size: int
    depth: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    max_logprobs: int = 20
    note: str | None = None
    footprint: Footprint | None = None


class Engine(Protocol):
    """Runs one plan at a time.

    An engine takes no decision of its own: positions, tokens and block tables are read from the plan's
    requests when it is begun. Where `caps.depth` is 2, a plan may be begun before the one before it is
    committed: a request's newest token is then still unknown to the plan, and the engine uses the one
    it drew itself.

    Running the same rows again, all or some of them (`plan.part`), must give the same result: the loop
    does so to find the one request that makes a step fail.
    """

    @property
    def caps(self) -> EngineCaps: ...

    def begin(self, plan: StepPlan) -> None:
        """Starts the step. Raises EngineDead when no step can run any more, anything else for this step."""

    def finish(self) -> StepResult:
        """Waits for the step begun and returns its result. Raises as `begin` does."""

    def close(self) -> None:
        """Gives the device and its memory back."""


class TextStream(Protocol):
    """Token ids in, text out, piece by piece: never half a character."""

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; empty while a character is incomplete."""

    def flush(self) -> str:
        """What is left at the end, incomplete characters as U+FFFD."""


class Tokenizer(Protocol):
    """Text to token ids and back, for one model."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain prompt, with the model's usual special tokens."""

    def encode_chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Token ids of a conversation that asks for the assistant's next message.

        Raises RequestRefused where the model has no chat template or its template refuses the messages.
        """

    def stream(self) -> TextStream: ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a single token stands for."""
