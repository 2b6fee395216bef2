"""DistServe's published row first, then the least GPUs of each scheduler and of DistServe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from brim.core.errors import ConfigError
from brim.reproduction.gpus.benches import BENCHES, Bench, Replicas
from brim.simulation.cluster.figures import figures
from brim.simulation.cluster.run import simulate_cluster
from brim.simulation.cluster.setup import ClusterSetup
from brim.simulation.least import least_that
from brim.simulation.processes import measure_all
from brim.simulation.results import Figures

Tell = Callable[[str, int], Callable[[], None]]
# vLLM on OPT-13B, one A100, ShareGPT, TTFT 0.25 s and TPOT 0.1 s: DistServe (arXiv 2401.09670)
PUBLISHED = {0.25: 0.90, 0.5: 0.90, 1.0: 0.85, 1.5: 0.81, 2.0: 0.71, 2.25: 0.70, 2.5: 0.68, 3.0: 0.55}
DISTSERVE = "distserve"
POLICIES = ("vllm-2023", "vllm", "sarathi", "econoserve", "brim")
MOST = 64
Sides = tuple[Replicas, ...]  # one for all, or one for prompts and one for answers


@dataclass(frozen=True, slots=True)
class Row:
    """One replica at a published rate."""

    bench: Bench
    rate: float
    seconds: float
    seed: int

    def do(self) -> Figures:
        count_seconds = max(self.seconds, 400 / self.rate)  # 400 requests at least
        found = _run(
            self.bench.together("vllm-2023", Replicas(self.bench.profile, 1)),
            self.bench,
            self.rate,
            count_seconds,
            self.seed,
        )
        own = found["online"]
        return {
            "rate": self.rate,
            "published": PUBLISHED[self.rate],
            "attainment": own["slo_attainment"],
            "ttft_attainment": own["ttft_attainment"],
            "tpot_attainment": own["tpot_attainment"],
        }


@dataclass(frozen=True, slots=True)
class Least:
    """The fewest GPUs with which a share `goal` of the load meets both targets."""

    bench: Bench
    policy: str
    goal: float
    seconds: float
    seed: int
    most: int = MOST  # replicas that are tried
    tried: dict[Sides, Figures] = field(default_factory=dict, compare=False, repr=False)

    def do(self) -> Figures:
        sides = self._apart() if self.policy == DISTSERVE else self._together()
        found = None if sides is None else self._figures(sides)
        return {
            "bench": self.bench.name,
            "policy": self.policy,
            "goal": self.goal,
            "replicas": sides and [side.number for side in sides],
            "gpus_each": sides and [side.gpus_each for side in sides],
            "gpus": sides and _gpus(sides),
            "attainment": found and found["online"]["slo_attainment"],
            "busy_share": found and found["busy_share"],
        }

    def _together(self) -> Sides | None:
        least = self._least(lambda replicas: (replicas,), self.most)
        return None if least is None else (least,)

    def _apart(self) -> Sides | None:
        """The least of each side with plenty of the other; where both do not hold together, one more each."""
        plenty = Replicas(self.bench.profiles[-1], self.most // 2)
        prefill = self._least(lambda replicas: (replicas, plenty), self.most // 2)
        decode = self._least(lambda replicas: (plenty, replicas), self.most // 2)
        if prefill is None or decode is None:
            return None
        for more in range(4):
            splits = [(_more(prefill, more - extra), _more(decode, extra)) for extra in range(more + 1)]
            for sides in sorted(splits, key=_gpus):
                if self._holds(sides):
                    return sides
        return None

    def _least(self, sides: Callable[[Replicas], Sides], most: int) -> Replicas | None:
        """Of the profile with which they take the fewest GPUs; of equals the narrowest."""
        best: Replicas | None = None
        for profile in self.bench.profiles:
            fewer = most if best is None else min((best.gpus - 1) // Replicas(profile, 1).gpus, most)
            if fewer < 1:
                continue
            count = self._least_of(profile, sides, fewer)
            best = best if count is None else Replicas(profile, count)
        return best

    def _least_of(self, profile: str, sides: Callable[[Replicas], Sides], most: int) -> int | None:
        return least_that(lambda count: self._holds(sides(Replicas(profile, count))), 4, most)

    def _figures(self, sides: Sides) -> Figures:
        """Of these replicas for all, or of these for prompts and those for answers; run once."""
        if sides not in self.tried:
            first, *rest = sides
            setup = (
                self.bench.apart(first, rest[0], self.seed)
                if rest
                else self.bench.together(self.policy, first, self.seed)
            )
            self.tried[sides] = _run(setup, self.bench, self.bench.rate, self.seconds, self.seed)
        return self.tried[sides]

    def _holds(self, sides: Sides) -> bool:
        return float(self._figures(sides)["online"]["slo_attainment"]) >= self.goal


def _gpus(sides: Sides) -> int:
    return sum(side.gpus for side in sides)


def _more(replicas: Replicas, number: int) -> Replicas:
    return replicas._replace(number=replicas.number + number)


@dataclass(frozen=True, slots=True)
class Goals:
    """The same for several shares: what was run for one is not run again for the next."""

    bench: Bench
    policy: str
    goals: Sequence[float]
    seconds: float
    seed: int

    def do(self) -> Figures:
        tried: dict[Sides, Figures] = {}
        parts = self.bench, self.policy
        return {
            "least": [Least(*parts, goal, self.seconds, self.seed, tried=tried).do() for goal in self.goals]
        }


def reproduce(
    seconds: float, goals: Sequence[float], names: Sequence[str], seed: int, jobs: int, tell: Tell
) -> Iterator[Figures]:
    """All figures so far, each time that a set-up is through. Raises ConfigError where there is none."""
    benches = [bench for bench in BENCHES if not names or any(name in bench.name for name in names)]
    if not benches:
        raise ConfigError(f"no set-up has {' or '.join(names)} in its name")
    rows = [Row(BENCHES[0], rate, seconds, seed) for rate in PUBLISHED]
    baseline = measure_all(_do, rows, jobs, tell("published row", len(rows)))
    least: list[Figures] = []
    for bench in benches:
        tasks = [Goals(bench, policy, goals, seconds, seed) for policy in (DISTSERVE, *POLICIES)]
        for found in measure_all(_do, tasks, jobs, tell(bench.name, len(tasks))):
            least += found["least"]
        done = benches[: benches.index(bench) + 1]
        yield {
            "experiment": "gpus",
            "seed": seed,
            "seconds": seconds,
            "baseline": baseline,
            "benches": [_about(each) for each in done],
            "least": least,
        }


def _about(bench: Bench) -> Figures:
    names = ("name", "profile", "ttft_seconds", "tpot_seconds", "rate", "mean_input", "mean_output")
    kv_tokens = bench.pool("vllm", 1, 0).config.capacity_tokens
    return {**{name: getattr(bench, name) for name in names}, "kv_tokens": kv_tokens}


def _run(setup: ClusterSetup, bench: Bench, rate: float, seconds: float, seed: int) -> Figures:
    return figures(simulate_cluster(bench.trace(rate, seconds, seed), setup))


def _do(task: Row | Goals) -> Figures:
    try:
        return task.do()
    except Exception as exc:
        exc.add_note(f"while measuring {task}")
        raise
