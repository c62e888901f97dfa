"""Places where a test can kill the process: RAYDC_FAILPOINT="checkpoint.rows:/tmp/marker" dies there, once.

RAYDC_FAILSIGNAL=SIGSTOP hangs there instead.
"""

import os
import signal


def failpoint(name: str) -> None:
    """SIGKILL this process if RAYDC_FAILPOINT names this place and its marker file does not exist yet."""
    wanted, _, marker = os.environ.get("RAYDC_FAILPOINT", "").partition(":")
    if wanted != name:
        return
    try:
        file = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    os.write(file, str(os.getpid()).encode())
    os.close(file)
    os.kill(os.getpid(), signal.Signals[os.environ.get("RAYDC_FAILSIGNAL", "SIGKILL")])
