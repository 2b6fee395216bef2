"""vLLM's OpenAI server; a CPU may schedule asynchronously in it. `python -m tests.plugins.vllm.serve FLAGS`"""

from __future__ import annotations

import runpy

from tests.plugins.vllm import classes

if __name__ == "__main__":  # the engine's processes import this file, too
    with classes.async_on_cpu():
        runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
