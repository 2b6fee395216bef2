"""Every exception Brim raises on purpose.

BrimError
├── ConfigError          a setting is wrong; the message names it and says what would be right
│   └── MissingPackages  a command needs packages that are not installed; says how to get them
├── TraceError           a trace can't be read or used as asked; names the file and the line
├── RequestRefused       this request can never run here; carries the API's `param` and `code`
├── ModelRefused         the engine can't run this model correctly; says why, at start
├── EngineDead           the engine will not run another step (a lost device, a failed thread)
└── InvariantViolated    a bug in Brim: `check()` found the state inconsistent
"""


class BrimError(Exception):
    """Base of all of them: catch this to catch what Brim means to raise."""


class ConfigError(BrimError):
    """A setting is wrong. The message says what to do instead."""


class MissingPackages(ConfigError):
    """`what` needs packages that are not here; `extras` of Brim, which is on no package index, name them."""

    def __init__(self, what: str, extras: str) -> None:
        super().__init__(f'{what}: in a checkout of Brim, pip install ".[{extras}]"')


class TraceError(BrimError):
    """A file or a value of requests can't be read or used as asked. The message names file and line."""


class RequestRefused(BrimError):
    """The request can never run here, however long it waits.

    `param` names the offending field and `code` the kind of refusal, both in OpenAI's words.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ModelRefused(BrimError):
    """The engine would run this model and give wrong text, or could not run it at all."""


class EngineDead(BrimError):
    """No further step is possible; the process has to be restarted."""


class InvariantViolated(BrimError):
    """The books don't balance: a bug in Brim, never the user's mistake."""
