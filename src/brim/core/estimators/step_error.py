"""How wrong the step time in use is, over the latest steps."""

from __future__ import annotations

from collections import deque

_WINDOW = 512


class StepError:
    """Relative errors of predictions that were made before the step was seen."""

    def __init__(self) -> None:
        self.steps = 0  # ever judged
        self._errors: deque[float] = deque(maxlen=_WINDOW)

    def add(self, predicted_over_actual: float) -> None:
        self.steps += 1
        self._errors.append(predicted_over_actual - 1)

    def figures(self) -> dict[str, float]:
        """`bias` is the median signed error, above 0 where steps are shorter than predicted.

        A mean would tell of the last hiccup only. Without a step all are 0.
        """
        signed = sorted(self._errors) or [0.0]
        absolute = sorted(map(abs, signed))
        return {
            "steps": self.steps,
            "p50": _quantile(absolute, 0.5),
            "p95": _quantile(absolute, 0.95),
            "bias": _quantile(signed, 0.5),
        }


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
