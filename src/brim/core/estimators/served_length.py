"""What is kept of a served request to learn from: its features and its length, as one line of JSON.

No text and no token: keys are digests already, and of the prompt there is its length and which of
1,024 buckets its outer tokens fall into, in no order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from brim.core.errors import ConfigError
from brim.core.estimators.learned_length import WORDS, prompt_words
from brim.core.request import Request, SamplingParams, TaskClass


@dataclass(frozen=True, slots=True)
class ServedLength:
    """A request that ended by itself. All tokens are counts."""

    prompt_tokens: int
    max_tokens: int
    task_class: TaskClass
    temperature: float
    length_keys: tuple[str, ...]
    words: tuple[int, ...]
    output_tokens: int

    @classmethod
    def of(cls, request: Request, num_output_tokens: int) -> ServedLength:
        return cls(
            prompt_tokens=len(request.prompt_token_ids),
            max_tokens=request.sampling.max_tokens,
            task_class=request.task_class,
            temperature=request.sampling.temperature,
            length_keys=request.length_keys,
            words=tuple(prompt_words(request)),
            output_tokens=num_output_tokens,
        )

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def from_json(cls, line: str) -> ServedLength:
        """Raises ConfigError, with the reason, for what `to_json` did not write."""
        try:
            values = json.loads(line)
            served = cls(
                prompt_tokens=int(values["prompt_tokens"]),
                max_tokens=int(values["max_tokens"]),
                task_class=TaskClass(values["task_class"]),
                temperature=float(values["temperature"]),
                length_keys=tuple(map(str, values["length_keys"])),
                words=tuple(map(int, values["words"])),
                output_tokens=int(values["output_tokens"]),
            )
        except KeyError as exc:
            raise ConfigError(f"it has no {exc}") from exc
        except (ValueError, TypeError) as exc:
            raise ConfigError(f"it is no served request ({exc})") from exc
        served._check()
        return served

    def request(self, request_id: str) -> Request:
        """A request with the same features, its prompt tokens made up: `words` are to be given apart."""
        sampling = SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature)
        return Request(
            request_id,
            range(self.prompt_tokens),
            sampling,
            self.task_class,
            length_keys=self.length_keys,
        )

    def _check(self) -> None:
        if not 0 <= self.output_tokens <= self.max_tokens or self.prompt_tokens < 0:
            raise ConfigError("its token counts contradict each other")
        if not all(0 <= word < WORDS for word in self.words):
            raise ConfigError(f"its words are not from 0 to {WORDS - 1}")
