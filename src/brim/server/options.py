"""Every setting of the server, once. Plain values: reading flags and the environment is the CLI's work."""

from __future__ import annotations

from dataclasses import dataclass

from brim.core.errors import ConfigError
from brim.core.request import SLO

NO_TARGETS = SLO()


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What a client may ask for, and when it is turned away.

    `model_names` are the names answered to, the first one being the name in `/v1/models`; empty means
    the engine's own name. The SLOs are those of requests that bring none, by service tier; where
    `client_targets` is false, of all requests.
    """

    model_names: tuple[str, ...] = ()
    max_n: int = 16
    max_prompts: int = 128  # prompts of one completions request
    max_queued_online: int = 1024  # with more waiting: 503; the priority tier has twice as many places
    flex_wait_seconds: float = 600.0  # no first token by then: 429, and the request is dropped
    client_targets: bool = True
    default_slo: SLO = NO_TARGETS
    priority_slo: SLO = NO_TARGETS


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the HTTP side behaves. Raises ConfigError for values that can't work."""

    api_keys: tuple[str, ...] = ()  # empty: no key is asked for
    guard_metrics: bool = False
    max_body_bytes: int = 32 * 2**20  # of JSON routes; uploads have their own limit
    comment_seconds: float = 15.0  # in a stream, a comment line after this long without a token
    write_timeout_seconds: float = 60.0  # a reader that takes nothing for this long is dropped
    keep_alive_seconds: int = 75  # an idle connection stays open: longer than most load balancers keep theirs
    stuck_step_seconds: float = 300.0  # a step that takes longer hangs, as far as /health knows
    shutdown_timeout_seconds: float = 30.0  # answers under way may take this long after SIGTERM

    def __post_init__(self) -> None:
        if not all(self.api_keys):
            raise ConfigError("an API key is empty: then everyone would have it; leave it out or fill it")
        for name in ("comment_seconds", "write_timeout_seconds", "keep_alive_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be over 0, not {getattr(self, name)}")
