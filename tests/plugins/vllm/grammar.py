"""Structured outputs without a compiler: a grammar that is ready when it was asked for so many times."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output.request import StructuredOutputRequest


class Grammar:
    """Takes so many tokens, whichever they are."""

    def __init__(self, tokens: float) -> None:
        self._left = tokens

    def accept_tokens(self, request_id: str, token_ids: list[int]) -> bool:
        self._left -= len(token_ids)
        return self._left >= 0


class Compiling(Future[Any]):
    """It may become ready between any two questions, as in another thread."""

    def __init__(self, questions: int, grammar: Any) -> None:
        super().__init__()
        self._questions = questions
        self.set_result(grammar)

    def done(self) -> bool:
        self._questions -= 1
        return self._questions < 0


def follows_grammar(request: Request, questions: int, tokens: float = float("inf")) -> None:
    """The request waits for its grammar, which takes `tokens` tokens; to be told before it is added."""
    params = StructuredOutputsParams(regex=".*")
    request.structured_output_request = StructuredOutputRequest(params, Compiling(questions, Grammar(tokens)))
    request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
