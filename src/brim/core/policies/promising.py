"""How many blocks a request is promised before it generates."""

from __future__ import annotations

from typing import Protocol

from brim.core.request import RequestView


class Promising(Protocol):
    @property
    def binding(self) -> bool:
        """Whether a request that reaches the end of its promise needs a new one to go on.

        Otherwise every further block is taken when it is needed, if there is one.
        """

    def tokens(self, view: RequestView) -> int:
        """Prompt and output tokens whose blocks are promised to the request."""


class OnDemand:
    """Nothing but the known tokens; each further block when it is needed (vLLM)."""

    binding = False

    def tokens(self, view: RequestView) -> int:
        return view.num_tokens


class Maximum:
    """All that the request may ever use (ORCA, FastServe)."""

    binding = True

    def tokens(self, view: RequestView) -> int:
        return view.num_prompt_tokens + view.request.sampling.max_tokens


class Exact:
    """What it is expected to use, and no less than its next token (S3, EconoServe)."""

    binding = True

    def tokens(self, view: RequestView) -> int:
        return max(view.expected_tokens, view.num_tokens + 1)
