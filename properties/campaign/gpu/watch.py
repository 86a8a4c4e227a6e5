"""Between the run and a step: `python -m properties.campaign.gpu.watch COMMAND...` runs it and outlives nobody.

The step and all that it starts are one process group, which this process leads: whoever kills the group ends the step
with everything. Where the run itself is gone, however it was ended, the pipe on standard input closes, and this process
kills the group, itself included. A line on that pipe hands SIGINT to the step, which may then end evenly.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    """The exit status of the step, 128 + N where signal N ended it."""
    if os.getpgid(0) != os.getpid():
        os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_as_usual) as step:
        threading.Thread(target=_listen, args=(step,), daemon=True).start()
        status = step.wait()
    return status if status >= 0 else 128 - status


def _as_usual() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _listen(step: subprocess.Popen[bytes]) -> None:
    while os.read(0, 64):
        step.send_signal(signal.SIGINT)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
