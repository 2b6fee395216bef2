"""Brim inside vLLM: its scheduler, and what its HTTP server lacks. vLLM is imported only where it runs."""


def __getattr__(name: str) -> object:
    """`--scheduler-cls brim.plugins.vllm.BrimScheduler`; the class stands on one of vLLM's."""
    if name == "BrimScheduler":
        from brim.plugins.vllm.scheduler import BrimScheduler

        return BrimScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
