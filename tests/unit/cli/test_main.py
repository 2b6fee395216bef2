"""How the process ends."""

from __future__ import annotations

import subprocess
import sys

HANGS = """
import atexit, threading
from brim.cli import main
from brim.core.errors import EngineDead

def app():
    raise EngineDead("its step hangs")

atexit.register(threading.Event().wait)  # as a device does whose kernel never ends
main.app = app
main.main()
"""


def test_a_device_that_hangs_does_not_hold_up_the_end() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (2, "brim: its step hangs\n")
