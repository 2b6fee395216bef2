"""DistServe's published row first, then the least GPUs of each scheduler and of DistServe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from brim.core.errors import ConfigError
from brim.reproduction.gpus.benches import BENCHES, Bench
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


@dataclass(frozen=True, slots=True)
class Row:
    """One replica at a published rate."""

    bench: Bench
    rate: float
    seconds: float
    seed: int

    def do(self) -> Figures:
        count_seconds = max(self.seconds, 400 / self.rate)  # 400 requests at least
        found = _run(self.bench.together("vllm-2023", 1), self.bench, self.rate, count_seconds, self.seed)
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
    tried: dict[tuple[int, ...], Figures] = field(default_factory=dict, compare=False, repr=False)

    def do(self) -> Figures:
        gpus = self.bench.pool("vllm", 1, 0).gpus
        if self.policy == DISTSERVE:
            prefill, decode, found = self._apart()
            replicas = None if found is None else prefill + decode
            about: Figures = {"prefill": prefill, "decode": decode}
        else:
            replicas, found = self._together()
            about = {}
        return {
            "bench": self.bench.name,
            "policy": self.policy,
            "goal": self.goal,
            "replicas": replicas,
            "gpus": None if replicas is None else replicas * gpus,
            "attainment": found and found["online"]["slo_attainment"],
            "busy_share": found and found["busy_share"],
            **about,
        }

    def _together(self) -> tuple[int | None, Figures | None]:
        least = least_that(lambda replicas: self._reached(self._figures(replicas)), 4, self.most)
        return least, None if least is None else self._figures(least)

    def _apart(self) -> tuple[int, int, Figures | None]:
        """The least of each side with plenty of the other; where both do not hold together, one more each."""
        plenty = self.most // 2
        prefill = least_that(lambda n: self._holds_apart(n, plenty), 4, plenty)
        decode = least_that(lambda n: self._holds_apart(plenty, n), 4, plenty)
        if prefill is None or decode is None:
            return 0, 0, None
        for more in range(4):
            for extra in range(more + 1):
                split = prefill + more - extra, decode + extra
                found = self._figures(*split)
                if self._reached(found):
                    return *split, found
        return prefill, decode, None

    def _holds_apart(self, prefill: int, decode: int) -> bool:
        return self._reached(self._figures(prefill, decode))

    def _figures(self, *replicas: int) -> Figures:
        """Of so many replicas, or of so many for prompts and so many for answers; run once."""
        if replicas not in self.tried:
            first, *rest = replicas
            setup = (
                self.bench.apart(first, *rest, seed=self.seed)
                if rest
                else self.bench.together(self.policy, first, self.seed)
            )
            self.tried[replicas] = _run(setup, self.bench, self.bench.rate, self.seconds, self.seed)
        return self.tried[replicas]

    def _reached(self, found: Figures) -> bool:
        return float(found["online"]["slo_attainment"]) >= self.goal


@dataclass(frozen=True, slots=True)
class Goals:
    """The same for several shares: what was run for one is not run again for the next."""

    bench: Bench
    policy: str
    goals: Sequence[float]
    seconds: float
    seed: int

    def do(self) -> Figures:
        tried: dict[tuple[int, ...], Figures] = {}
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
