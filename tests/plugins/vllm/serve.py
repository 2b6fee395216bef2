"""vLLM's OpenAI server where a CPU may schedule asynchronously: `python -m tests.plugins.vllm.serve FLAGS`"""

from __future__ import annotations

import runpy
from contextlib import ExitStack

from tests.plugins.vllm import classes

# outside the guard: the engine's own processes import this file, and settle their configuration anew
for_good = ExitStack()
for_good.enter_context(classes.async_on_cpu())

if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
