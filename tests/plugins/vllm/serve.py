"""vLLM's OpenAI server where a CPU may schedule asynchronously: `python -m tests.plugins.vllm.serve FLAGS`"""

from __future__ import annotations

import runpy
import sys
from contextlib import ExitStack

from tests.plugins.vllm import classes

# outside the guard: the engine's own processes import this file, and settle their configuration anew
for_good = ExitStack()
for_good.enter_context(classes.async_on_cpu())


def engines_alone() -> None:
    """What `vllm serve --headless` does; the module of the server knows no such flag."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    ServeSubcommand.cmd(make_arg_parser(FlexibleArgumentParser()).parse_args())


if __name__ == "__main__" and "--headless" in sys.argv:
    engines_alone()
elif __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
