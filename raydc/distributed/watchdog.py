"""A process that hangs is killed by a small one beside it, and so replaced as Ray replaces all that are lost.

A watched process beats from a thread of its own, however long its work takes; a process that is stopped, or whose
threads cannot run, beats no more. Its watcher is a child on the same machine, which hears the beats and reads from the
system how much processor time the process has had, and whether it waits for more. Slow is not dead: whoever gets
processor time, or stands in line for it, is waited for on a machine however busy; and the watcher's own clock is the
pauses that it has slept, so that it blames nobody for a time in which it was stopped itself. Where the system does not
tell (other than Linux), the beats alone count.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

HANG_AFTER = 20.0
"""Seconds without a sign of life until a process is killed, where no setting says otherwise."""
BEATS = 8
"""That a process is due in this time."""


@dataclass
class Pulse:
    """What the watcher knows of a process; processor time is in seconds."""

    hang_after: float
    processor_time: float
    """When it was last looked at."""
    at_beat: float = 0.0
    """Processor time at its last beat."""
    silent: int = 0
    """Pauses since its last beat."""
    still: int = 0
    """The last of them in a row in which it had no processor time, and did not wait for any."""

    @property
    def pause(self) -> float:
        return self.hang_after / BEATS

    def beat(self, processor_time: float) -> None:
        self.processor_time = self.at_beat = processor_time
        self.silent = self.still = 0

    def miss(self, processor_time: float, in_line: bool) -> bool:
        """After a pause without a beat: whether the process hangs.

        It does if it neither had processor time nor stood in line for it for `hang_after` seconds, or has used as many,
        in no less time, without a beat: then a thread does not let the others run.
        """
        self.silent += 1
        self.still = 0 if in_line or processor_time > self.processor_time else self.still + 1
        self.processor_time = processor_time
        spent = processor_time - self.at_beat
        return self.still >= BEATS or (self.silent >= BEATS and spent >= self.hang_after)


def processor_time(number: int) -> float:
    """Seconds of processor time that a process of this machine has had, over all threads; 0 where nobody tells."""
    try:
        with open(f"/proc/{number}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_line(number: int) -> bool:
    """Whether a thread of a process of this machine runs or could run, had it a processor."""
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{number}/task"):
            with suppress(OSError), open(f"/proc/{number}/task/{thread}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "R":
                    return True
    return False


class _Watched:
    """This process, with its watcher."""

    def __init__(self) -> None:
        self.hang_after = HANG_AFTER
        self.watcher: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()

    def watch(self, hang_after: float) -> None:
        with self.lock:
            self.hang_after = hang_after
            if self.watcher is None:
                self._start()
                threading.Thread(target=self._beat, name="raydc-beats", daemon=True).start()
            self._say()

    def _start(self) -> None:
        # by its path, in a bare interpreter: it is there in a moment, and small
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
        self.watcher = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)

    def _beat(self) -> None:
        while True:
            time.sleep(self.hang_after / BEATS)
            with self.lock:
                self._say()

    def _say(self) -> None:
        assert self.watcher is not None and self.watcher.stdin is not None
        try:
            self.watcher.stdin.write(f"{self.hang_after}\n".encode())
        except BrokenPipeError:  # the watcher was killed
            self._start()


_THIS = _Watched()


def watch(hang_after: float = HANG_AFTER) -> None:
    """Watch this process from now on until it ends; what it was told last of `hang_after` holds."""
    _THIS.watch(hang_after)


def _stand_by(number: int) -> None:
    """Kill the process `number`, this one's parent, when it hangs; end with it."""
    pulse = Pulse(HANG_AFTER, 0.0)
    while os.getppid() == number:
        if select.select([0], [], [], pulse.pause)[0]:
            heard = os.read(0, 4096).split()
            if not heard:
                return
            pulse.hang_after = float(heard[-1])
            pulse.beat(processor_time(number))
        elif pulse.miss(processor_time(number), in_line(number)):
            print(f"raydc: process {number} gives no sign of life: killed", file=sys.stderr, flush=True)
            os.kill(number, signal.SIGKILL)
            return


if __name__ == "__main__":
    _stand_by(int(sys.argv[1]))
