"""vLLM as a host: its scheduler, unmodified, with Brim's decisions."""


def __getattr__(name: str) -> object:
    """`BrimScheduler`, where vLLM is told it as a class: it is imported when vLLM asks for it."""
    if name == "BrimScheduler":
        from brim.plugins.vllm.scheduler import BrimScheduler

        return BrimScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
