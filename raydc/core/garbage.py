"""The garbage collector of a command's process: what is imported stays, so a collector that searches it again and again
takes a fifth of a short command's time.
"""

import gc


def leave() -> None:
    """Collect none until work begins; for a process that is the command's own."""
    gc.disable()


def collect() -> None:
    """Collect from now on, where none was collected, but not among what is there. Call it where work begins."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
