"""How many tokens an answer will have: what is promised to a request before anyone can know.

Every predictor is told what ended by itself and asked for a length; what it gets wrong is counted by
`length_error.Measured`. `learned_length` holds the predictor that reads the prompt as well.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Protocol

from brim.core.errors import ConfigError
from brim.core.request import Request

DEFAULT_QUANTILE = 0.7  # 3 of 10 answers are longer than predicted
PRIOR_TOKENS = 512  # 97 % of the answers to Azure's chats of 2023 are no longer, of ShareGPT's 63 %


class ResponseLength(Protocol):
    """Predicts how many output tokens a request will have in all."""

    def predict(self, request: Request, generated: int) -> int:
        """Output tokens in all, at least `generated` + 1 and at most `request.sampling.max_tokens`.

        `generated` output tokens are there already: the prediction is about those requests only that
        got that far. Changes nothing, so it can be asked again.
        """

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """A request ended by itself (`stop` or `length`) with so many output tokens."""


def bounded(tokens: int, request: Request, generated: int) -> int:
    """The nearest prediction to `tokens` that `predict` may return."""
    return min(max(tokens, generated + 1), request.sampling.max_tokens)


def padded(predicted: int, pad: float, bucket: int, generated: int, max_tokens: int) -> int:
    """Output tokens to promise: the share `pad` more than is still predicted, rounded up to whole buckets.

    Only what is still to come is padded: of a request that has `generated` tokens, nothing else is
    unknown. `bucket` is in tokens. At most `max_tokens`, which needs not be whole buckets.
    """
    still_to_come = max(predicted - generated, 1)
    tokens = generated + still_to_come + math.ceil(still_to_come * pad)
    return min(-(-tokens // bucket) * bucket, max_tokens)


class AtMost:
    """Predicts what was allowed: nothing is ever under-predicted, and most of it is never used."""

    def predict(self, request: Request, generated: int) -> int:
        return request.sampling.max_tokens

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Learns nothing."""


class History:
    """A quantile of what requests of the same group took lately.

    The groups of a request are its `length_keys`, then the requests of its class with a limit of the same
    power of two, then its class. The first of them with `min_lengths` known lengths, one of them over
    `generated`, decides; where none has one, twice `generated`, so that a request of any length outgrows
    few predictions. Before any group has enough, `prior_tokens`: promising the limit to everyone would
    leave most of the KV cache empty, and too little is made good once it is outgrown.

    A group remembers its latest `window` lengths: what is older has no say. Of the groups, the
    `max_groups` that a request ended in most recently are kept, about 8 kB each when full.

    An answer cut off by its limit counts as long as it got. The first answers to end are the short ones,
    so a young group predicts too little until its first long answers are over.
    """

    def __init__(
        self,
        quantile: float = DEFAULT_QUANTILE,
        *,
        min_lengths: int = 20,
        window: int = 256,
        max_groups: int = 4096,
        prior_tokens: int = PRIOR_TOKENS,
    ) -> None:
        """Raises ConfigError for values that can't work."""
        if not 0 < quantile < 1:
            raise ConfigError(f"quantile must lie between 0 and 1, not {quantile}")
        if not 1 <= min_lengths <= window:
            raise ConfigError(f"min_lengths must be from 1 to the window of {window}, not {min_lengths}")
        if min(max_groups, prior_tokens) < 1:
            raise ConfigError("max_groups and prior_tokens must be at least 1")
        self.quantile = quantile
        self.prior_tokens = prior_tokens
        self._min_lengths = min_lengths
        self._window = window
        self._max_groups = max_groups
        self._groups: OrderedDict[str, _Lengths] = OrderedDict()  # the one that grew last stands last

    @property
    def num_groups(self) -> int:
        return len(self._groups)

    def predict(self, request: Request, generated: int) -> int:
        expected = self.expected(request, generated, self.quantile)
        if expected is None:
            expected = max(self.prior_tokens, 2 * generated)
        return bounded(expected, request, generated)

    def expected(self, request: Request, generated: int, quantile: float) -> int | None:
        """As `predict`, for any quantile and beyond the request's limit; None while too little is known."""
        known = False
        for lengths in self._enough(request):
            length = lengths.quantile(quantile, generated)
            if length is not None:
                return length
            known = True
        return 2 * generated if known else None

    def observe(self, request: Request, num_output_tokens: int) -> None:
        for key in _groups_of(request):
            lengths = self._groups.get(key)
            if lengths is None:
                lengths = self._groups[key] = _Lengths(self._window)
            lengths.add(num_output_tokens)
            self._groups.move_to_end(key)
        while len(self._groups) > self._max_groups:
            self._groups.popitem(last=False)

    def _enough(self, request: Request) -> Iterator[_Lengths]:
        for key in _groups_of(request):
            lengths = self._groups.get(key)
            if lengths is not None and len(lengths) >= self._min_lengths:
                yield lengths


def _groups_of(request: Request) -> tuple[str, ...]:
    limit = 1 << (request.sampling.max_tokens - 1).bit_length()
    return (*request.length_keys, f"{request.task_class}:{limit}", str(request.task_class))


class _Lengths:
    """The latest lengths of one group, at most `window`: in the order they came, and sorted."""

    __slots__ = ("_latest", "_sorted")

    def __init__(self, window: int) -> None:
        self._latest: deque[int] = deque(maxlen=window)
        self._sorted: list[int] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, length: int) -> None:
        if len(self._latest) == self._latest.maxlen:
            del self._sorted[bisect_left(self._sorted, self._latest[0])]
        self._latest.append(length)
        insort(self._sorted, length)

    def quantile(self, quantile: float, above: int) -> int | None:
        """The next length is at or under it with at least this probability, given that it is over `above`.

        Of n lengths the ceil(quantile * (n + 1))-th: with that rank it is true whatever the distribution
        (as in split conformal prediction, Vovk et al. 2005), unless that is beyond the longest one.
        """
        start = bisect_right(self._sorted, above)
        count = len(self._sorted) - start
        if not count:
            return None
        rank = min(math.ceil(quantile * (count + 1)), count)
        return self._sorted[start + rank - 1]
