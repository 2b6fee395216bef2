"""Many questions about long documents, as LooGLE asks them: work that shares long prefixes."""

from __future__ import annotations

from collections import Counter
from random import Random

from brim.workloads.lengths import LengthLaw, refuse_none
from brim.workloads.sharing import DocumentBlocks
from brim.workloads.trace import Trace, TraceRequest

# LooGLE's published totals, and the lengths of the 222 requests of its test data in Llama-2 tokens.
LOOGLE_DOCUMENTS, LOOGLE_QUESTIONS = 776, 6448
DOCUMENT, QUESTION, ANSWER = (
    LengthLaw(24_000, 0.35, 100_000),
    LengthLaw(92, 0.9, 1024),
    LengthLaw(27.5, 0.9, 512),
)


def loogle_shaped(documents: int = LOOGLE_DOCUMENTS, seed: int = 0, block_tokens: int = 16) -> Trace:
    """Long documents with several questions each and short answers, grouped by document, as LooGLE's file is.

    Each document has one question, and the others fall on documents of random popularity, so that a few
    have dozens. All blocks that a document fills are shared by its questions. `mixed` and `shuffled` change
    the order, `unshared` takes the sharing away.
    """
    refuse_none(documents, "documents")
    refuse_none(block_tokens, "tokens of a block")
    rng, sharing = Random(seed), DocumentBlocks(block_tokens)
    popularity = [rng.expovariate(1.0) for _ in range(documents)]
    total = round(documents * LOOGLE_QUESTIONS / LOOGLE_DOCUMENTS)
    asked = Counter(rng.choices(range(documents), popularity, k=total - documents))
    document_tokens = DOCUMENT.draw(documents, rng)
    pairs = zip(QUESTION.draw(total, rng), ANSWER.draw(total, rng), strict=True)
    requests = []
    for document, tokens in enumerate(document_tokens):
        blocks = sharing.blocks(document, tokens, tokens)
        for _ in range(1 + asked[document]):
            question, answer = next(pairs)
            requests.append(TraceRequest(0, tokens + question, answer, block_ids=blocks))
    return Trace(
        name="synthetic LooGLE-shaped",
        requests=requests,
        block_tokens=block_tokens,
        has_arrivals=False,
        note=f"SYNTHETIC, by LooGLE's published totals: {documents} documents, "
        f"{sum(document_tokens)} tokens in all, {total} questions grouped by document; seed {seed}",
    )


def documents_of(total_tokens: int) -> int:
    """How many documents have about so many tokens in all; one at least."""
    refuse_none(total_tokens, "tokens of documents")
    return max(round(total_tokens / DOCUMENT.mean), 1)
