"""The flags that `brim simulate` and `brim compare` share, and the trace and the setup they ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.response_length import AtMost, History, ResponseLength
from brim.core.policies.named import named
from brim.core.request import TaskClass
from brim.profiles.loader import Profile, load
from brim.profiles.unevenness import EVEN
from brim.simulation.lengths import Oracle, anchored
from brim.simulation.machine import Machine
from brim.simulation.run import Setup
from brim.simulation.targets import Targets
from brim.workloads.arrivals import SPELLINGS, AllAtOnce, Poisson, parse_arrivals
from brim.workloads.formats import FORMATS, read
from brim.workloads.trace import NANOSECONDS, Trace, begun, merged, rescaled, with_arrivals

LENGTHS = "history, oracle, noisy or limit"
MAY_BE_ZERO = {
    *("max_output_tokens", "seed", "measure_from", "step_overhead_us", "step_overhead_per_sequence_us"),
    *("max_prefill_chunk_tokens", "prompt_floor_tokens", "reserve_share", "length_padding"),
    *("loan_buffer_tokens", "offline_step_tokens", "step_limit_ms", "slack_share"),
}
MOST_KV_TOKENS = 10**8
MOST = {"kv_tokens": MOST_KV_TOKENS, "e2e_s": 1e6, "seed": 2**63}  # of others a billion
AS_THEY_ARE = (  # settings of the scheduler that follow from nothing else
    *(
        "block_size",
        "max_num_seqs",
        "max_num_batched_tokens",
        "max_prefill_chunk_tokens",
        "prompt_floor_tokens",
    ),
    *("reserve_share", "length_padding", "loan_buffer_tokens", "offline_step_tokens", "step_limit_ms"),
    *("slack_share", "offline_score", "ttft_ms"),
)
_MS, _US_PS = 1_000_000, 1_000_000  # nanoseconds in a millisecond; picoseconds in a microsecond


def _help(text: str) -> dict[str, str]:
    return {"help": text}


def core_default(name: str) -> Any:
    """The core's default."""
    return SchedulerConfig.__dataclass_fields__[name].default


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every flag: name, type, default and help, once."""

    trace_file: Path = field(metadata=_help("A trace, gzip or not: see `brim trace stats`."))
    profile: str = field(metadata=_help("A step-time profile: a name, or the path of a .json file."))
    offline: Path | None = field(
        default=None, metadata=_help("A trace of offline requests besides; without arrivals, all at 0.")
    )
    format: str = field(default="auto", metadata=_help(f"One of {', '.join(FORMATS)}."))
    arrivals: str | None = field(default=None, metadata=_help(f"Generate arrivals: {SPELLINGS}."))
    rate: float | None = field(default=None, metadata=_help("Scale the gaps to so many requests/s."))
    scale: float | None = field(default=None, metadata=_help("Scale the rate by a factor."))
    first: int | None = field(default=None, metadata=_help("Only the first N requests."))
    kv_tokens: int | None = field(
        default=None, metadata=_help("Size of the KV cache in tokens; else the profile's.")
    )
    block_size: int = field(
        default=core_default("block_size"), metadata=_help("Tokens in a block of the KV cache.")
    )
    max_model_len: int | None = field(
        default=None,
        metadata=_help("Most tokens of prompt and output; else a power of 2 in which every request fits."),
    )
    max_num_seqs: int = field(
        default=core_default("max_num_seqs"), metadata=_help("Most requests in one step.")
    )
    max_num_batched_tokens: int = field(
        default=core_default("max_num_batched_tokens"), metadata=_help("Most tokens in one step.")
    )
    max_output_tokens: int = field(
        default=0, metadata=_help("What every user asks for at most; 0: all that fits.")
    )
    max_prefill_chunk_tokens: int = field(
        default=core_default("max_prefill_chunk_tokens"),
        metadata=_help("Most prompt tokens of one request in a step; 0: no limit."),
    )
    target_forward_tokens: int | None = field(
        default=None, metadata=_help("Tokens a step to fill with prompts; else the profile's.")
    )
    prompt_floor_tokens: int = field(
        default=core_default("prompt_floor_tokens"),
        metadata=_help(
            "KV that outputs leave to prompts; 0: a quarter of the target, at most 1 % of the cache."
        ),
    )
    reserve_share: float = field(
        default=core_default("reserve_share"),
        metadata=_help("Of the KV, for answers that outgrow their prediction."),
    )
    length_padding: float = field(
        default=core_default("length_padding"), metadata=_help("Share added to every predicted length.")
    )
    loan_buffer_tokens: int = field(
        default=core_default("loan_buffer_tokens"),
        metadata=_help("Steps that a guest must leave before its host."),
    )
    offline_step_tokens: int = field(
        default=core_default("offline_step_tokens"),
        metadata=_help("Most tokens of offline requests in a step, under bs; 0: no limit."),
    )
    step_limit_ms: float = field(
        default=core_default("step_limit_ms"),
        metadata=_help("Most that a step with offline requests may take, under hygen; 0: 50."),
    )
    slack_share: float = field(
        default=core_default("slack_share"),
        metadata=_help("Of the time that online requests leave, for offline ones: brim, echo, bs-e."),
    )
    offline_score: str = field(
        default=core_default("offline_score"),
        metadata=_help("How offline requests are chosen: rate (gain over time) or difference."),
    )
    enable_prefix_caching: bool | None = field(
        default=None,
        metadata=_help("Else on where the trace has prefix ids: without them only recomputation could gain."),
    )
    lengths: str = field(
        default="history", metadata=_help(f"What predicts the length of an answer: {LENGTHS}.")
    )
    seed: int = field(default=0, metadata=_help("Decides whatever is drawn."))
    step_overhead_us: float = field(
        default=0.0, metadata=_help("Time of the host added to every step, microseconds.")
    )
    step_overhead_per_sequence_us: float = field(
        default=0.0, metadata=_help("The same for every request in the step.")
    )
    ttft_ms: float | None = field(default=None, metadata=_help("TTFT target of online requests."))
    tpot_ms: float | None = field(default=None, metadata=_help("TPOT target of online requests."))
    itl_ms: float | None = field(
        default=None, metadata=_help("Target of online requests for every gap between two tokens.")
    )
    e2e_s: float | None = field(
        default=None, metadata=_help("End-to-end target of online requests, seconds.")
    )
    slo_scale: float | None = field(
        default=None,
        metadata=_help("End-to-end target: so many times what the request takes alone on the machine."),
    )
    measure_from: float = field(
        default=0.0, metadata=_help("Leave out what is before, seconds of virtual time.")
    )
    measure_until: float | None = field(
        default=None, metadata=_help("Leave out what is after, seconds of virtual time.")
    )
    depth: int = field(default=1, metadata=_help("Steps under way at once: 1 or 2."))
    skip: bool = field(
        default=True, metadata=_help("Take quiet stretches in at once; the figures are the same.")
    )

    def __post_init__(self) -> None:
        """Raises ConfigError for values that contradict each other."""
        if self.rate is not None and self.scale is not None:
            raise ConfigError("give --rate or --scale, not both")
        if self.slo_scale is not None and self.e2e_s is not None:
            raise ConfigError("both --slo-scale and --e2e-s set the end-to-end target: give one of them")
        if self.depth not in (1, 2):
            raise ConfigError(f"--depth {self.depth}: give 1, or 2 to schedule a step while another runs")
        if self.measure_until is not None and self.measure_until <= self.measure_from:
            raise ConfigError("--measure-until must be later than --measure-from")
        for each in fields(self):
            self._refuse_senseless(each.name)

    def _refuse_senseless(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        least = 0 if name in MAY_BE_ZERO else None
        most = MOST.get(name, 1e9)
        if not 0 <= value <= most or (least is None and value == 0):
            wanted = "0 or more" if least == 0 else "more than 0"
            raise ConfigError(
                f"--{name.replace('_', '-')} must be {wanted}, and {most:g} at most, not {value}"
            )

    # ---- the trace -------------------------------------------------------------------------------------

    def trace(self, rate: float | None = None) -> Trace:
        """What arrives, from 0 on; `rate` overrides all that sets the pace.

        Raises TraceError or ConfigError.
        """
        trace = read(self.trace_file, self.format)
        if self.first is not None:
            trace = trace.first(self.first)
        if not trace.requests:
            raise ConfigError(f"{trace.name} has no requests")
        trace = self._paced(trace) if rate is None else self._at(rate, trace)
        if self.offline is None:
            return begun(trace)
        offline = read(self.offline, self.format).as_class(TaskClass.OFFLINE)
        if offline.has_arrivals:  # by the same clock
            return begun(merged(trace, offline))
        return merged(begun(trace), with_arrivals(offline, AllAtOnce()))

    def _paced(self, trace: Trace) -> Trace:
        if self.arrivals is not None:
            trace = with_arrivals(trace, parse_arrivals(self.arrivals, self.seed))
        if not trace.has_arrivals:
            raise ConfigError(
                f"{trace.name} has lengths only, no arrivals: generate some, as with --arrivals poisson:5"
            )
        if self.rate is None and self.scale is None:
            return trace
        return rescaled(trace, rate=self.rate, scale=self.scale)

    def _at(self, rate: float, trace: Trace) -> Trace:
        """Poisson arrivals at this rate where there are none; else the gaps there are, scaled to it."""
        if self.arrivals is not None:
            trace = with_arrivals(trace, parse_arrivals(self.arrivals, self.seed))
        if not trace.has_arrivals:
            return with_arrivals(trace, Poisson(rate, self.seed))
        return rescaled(trace, rate=rate)

    # ---- the setup -------------------------------------------------------------------------------------

    def load_profile(self) -> Profile:
        return load(self.profile)

    def setup(self, trace: Trace, profile: Profile, policy: str) -> Setup:
        """Raises ConfigError where the policy is unknown or nothing of the trace fits."""
        config = self._config(trace, profile, policy)
        asked = max(self.max_output_tokens, 1)
        if all(r.input_tokens + asked > config.max_model_len for r in trace.requests):
            raise ConfigError(
                f"no request of {trace.name} fits in {config.max_model_len} tokens: "
                "raise --max-model-len or --kv-tokens, or lower --max-output-tokens"
            )
        return Setup(
            config,
            Machine(
                profile.step_time,
                profile.target_forward_tokens,
                round(self.step_overhead_us * _US_PS),
                round(self.step_overhead_per_sequence_us * _US_PS),
                profile.unevenness or EVEN,
            ),
            named(config, self._predictor(trace), profile.step_time),
            self._targets(),
            self.max_output_tokens,
            self.depth,
            self.skip,
            round(self.measure_from * NANOSECONDS),
            _nanoseconds(self.measure_until, NANOSECONDS),
        )

    def _config(self, trace: Trace, profile: Profile, policy: str) -> SchedulerConfig:
        kv_tokens = profile.kv_tokens() if self.kv_tokens is None else self.kv_tokens
        if kv_tokens < self.block_size:
            raise ConfigError(
                f"--kv-tokens {kv_tokens} is less than one block of {self.block_size}: give more"
            )
        capacity = kv_tokens // self.block_size * self.block_size
        longest = max(r.input_tokens + max(self.max_output_tokens, r.output_tokens) for r in trace.requests)
        caching = (
            bool(trace.block_tokens) if self.enable_prefix_caching is None else self.enable_prefix_caching
        )
        return SchedulerConfig(
            num_blocks=kv_tokens // self.block_size,
            max_model_len=self.max_model_len or min(1 << longest.bit_length(), capacity),
            enable_prefix_caching=caching,
            policy=policy,
            target_forward_tokens=self.target_forward_tokens or profile.target_forward_tokens,
            **{name: getattr(self, name) for name in AS_THEY_ARE},
        )

    def _predictor(self, trace: Trace) -> ResponseLength:
        truth = {str(i): max(r.output_tokens, 1) for i, r in enumerate(trace.requests)}
        match self.lengths:
            case "history":
                return History()
            case "oracle":
                return Oracle(truth)
            case "noisy":
                return anchored(truth, self.seed)
            case "limit":
                return AtMost()
        raise ConfigError(f"--lengths {self.lengths} is no predictor: take {LENGTHS}")

    def _targets(self) -> Targets:
        return Targets(
            ttft_ns=_nanoseconds(self.ttft_ms, _MS),
            tpot_ns=_nanoseconds(self.tpot_ms, _MS),
            itl_ns=_nanoseconds(self.itl_ms, _MS),
            e2e_ns=_nanoseconds(self.e2e_s, NANOSECONDS),
            scale=self.slo_scale,
        )


def _nanoseconds(value: float | None, unit: int) -> int | None:
    return None if value is None else round(value * unit)


def _flag(field: Field[Any]) -> Any:
    help = field.metadata["help"]
    if field.name == "trace_file":
        return typer.Argument(help=help)
    silent = field.default in (MISSING, None) or isinstance(field.default, bool)
    return typer.Option(help=help if silent else f"{help} [{field.default}]", show_default=False)


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer: the flags of `Options`, given as the first parameter, and then its own."""
    hints = get_type_hints(Options)
    shared = {f.name: Annotated[hints[f.name], _flag(f)] for f in fields(Options)}
    defaults = {f.name: f.default for f in fields(Options) if f.default is not MISSING}
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    def run(**values: Any) -> None:
        command(Options(**{name: values.pop(name) for name in shared}), **values)

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, kind, default=defaults.get(name, inspect.Parameter.empty), annotation=type_)
        for name, type_ in shared.items()
    ]
    parameters += [parameter.replace(kind=kind) for parameter in own]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
