"""Groups of requests whose answers are alike in length, told to the length predictor by digests only."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from brim.server.schemas import ChatRequest, GenerationRequest

SYSTEM_CHARS = 512  # what comes later often differs by user or by date
HEAD_TOKENS = 16  # about the instruction that a template begins with


def length_keys(
    body: GenerationRequest,
    prompt: Sequence[int],
    *,
    batch_id: str = "",
    tenant: str = "",
    fairness_id: str = "",
) -> tuple[str, ...]:
    """The groups of one prompt, the most specific first: its batch job, its instructions, its tenant.

    The instructions are the first 512 characters of a chat's leading system message, or the first 16
    tokens of a completion's prompt. A tenant may tell apart those it acts for by `fairness_id`. What is
    empty makes no group.
    """
    kind, instructions = _instructions(body, prompt)
    if fairness_id:
        tenant = _digest(f"{tenant}/{fairness_id}".encode())
    groups = (("job", batch_id), (kind, instructions), ("tenant", tenant))
    return tuple(f"{kind}:{name}" for kind, name in groups if name)


def _instructions(body: GenerationRequest, prompt: Sequence[int]) -> tuple[str, str]:
    if not isinstance(body, ChatRequest):
        head = array("q", prompt[:HEAD_TOKENS])
        return "head", _digest(head.tobytes()) if len(head) == HEAD_TOKENS else ""
    first = body.messages[0]
    told = first.role in ("system", "developer")
    return "system", _digest(first.content[:SYSTEM_CHARS].encode()) if told else ""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
