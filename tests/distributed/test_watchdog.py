"""A process that hangs is killed in time; one that is slow, however slow, is not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raydc.distributed import watchdog
from raydc.distributed.watchdog import BEATS, Pulse
from tests.support.waiting import happens

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system tells no processor time")


def after(pauses: int, processor_time: float = 0.0, pulse: Pulse | None = None, in_line: bool = False) -> list[bool]:
    """What is found after each of some pauses without a beat; so much processor time is had in each."""
    pulse = pulse or Pulse(hang_after=20.0, processor_time=0.0)
    return [pulse.miss(pulse.processor_time + processor_time, in_line) for _ in range(pauses)]


def test_without_processor_time_a_process_hangs_after_its_time():
    assert after(BEATS) == [False] * (BEATS - 1) + [True]


def test_with_some_processor_time_a_process_is_alive():
    assert not any(after(40 * BEATS, 0.01))


def test_a_process_that_waits_for_its_turn_is_alive():
    assert not any(after(40 * BEATS, in_line=True))


def test_some_processor_time_now_and_then_is_enough():
    pulse = Pulse(20.0, 0.0)
    for _ in range(10):
        assert not any(after(BEATS - 1, pulse=pulse)) and not pulse.miss(pulse.processor_time + 0.01, False)


def test_a_process_that_uses_its_time_without_a_beat_hangs_but_not_before_the_clock():
    assert after(BEATS, 2.5) == [False] * (BEATS - 1) + [True]
    assert after(BEATS, 40.0) == [False] * (BEATS - 1) + [True], "many threads use more than the clock"
    assert after(2 * BEATS, 1.25) == [False] * (2 * BEATS - 1) + [True]


def test_a_beat_begins_anew():
    pulse = Pulse(20.0, 0.0)
    after(BEATS - 1, 3.0, pulse)
    pulse.beat(pulse.processor_time)
    assert not any(after(BEATS - 1, 3.0, pulse))


def test_processor_time_is_that_of_all_threads_and_nothing_of_a_process_that_is_gone():
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    assert abs(watchdog.processor_time(os.getpid()) - time.process_time()) < 0.1
    assert watchdog.processor_time(2**22 + 1) == 0.0
    assert watchdog.in_line(os.getpid()) and not watchdog.in_line(2**22 + 1)


BUSY = """
import sys
from raydc.distributed.watchdog import watch
watch(float(sys.argv[1]))
print("watched", flush=True)
while True:
    sum(range(1000))
"""
GREEDY = """
import re, sys
from raydc.distributed.watchdog import watch
watch(float(sys.argv[1]))
print("watched", flush=True)
re.match("(a+)+$", "a" * 64 + "b")
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen]]:
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def start(started: list[subprocess.Popen], program: str) -> subprocess.Popen:
    """A process of this program, which is killed when it hangs for a second."""
    command = [sys.executable, "-c", program, "1.0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout.readline() == "watched\n"
    return process


def watchers(of: int) -> list[int]:
    lists = [path.read_text() for path in Path(f"/proc/{of}/task").glob("*/children")]  # by the thread that began them
    return [int(number) for text in lists for number in text.split()]


def soon(found: Callable[[], object]) -> bool:
    return happens(found, 30.0, every=0.02)


def ended(number: int) -> bool:
    """Whether a process ends soon."""
    return soon(lambda: not commandline(number))


def commandline(number: int) -> str:
    """Empty of a process that is gone, or a zombie."""
    try:
        return Path(f"/proc/{number}/cmdline").read_text()
    except OSError:
        return ""


def test_a_stopped_process_is_killed_in_its_time_and_its_watcher_ends(started):
    process = start(started, BUSY)
    (watcher,) = watchers(process.pid)
    began = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    assert process.wait(30) == -signal.SIGKILL
    assert time.monotonic() - began >= 1.0 - 1.0 / BEATS
    assert f"process {process.pid} gives no sign of life" in process.stderr.read()
    assert ended(watcher)


def test_a_process_whose_other_threads_cannot_run_is_killed(started):
    process = start(started, GREEDY)
    assert process.wait(60) == -signal.SIGKILL


def test_a_process_that_gets_5_percent_of_the_time_is_not_killed(started):
    process = start(started, BUSY)
    for _ in range(10):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.38)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.02)
    assert process.poll() is None


def test_a_process_that_is_pushed_aside_is_not_killed(started):
    process = start(started, BUSY)
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        os.setpriority(os.PRIO_PROCESS, int(thread), 19)
    for _ in range(2 * (os.cpu_count() or 1)):
        started.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4)


def test_a_watcher_ends_with_its_process_and_a_lost_one_is_replaced(started):
    process = start(started, BUSY)
    (watcher,) = watchers(process.pid)
    os.kill(watcher, signal.SIGKILL)
    assert soon(lambda: set(watchers(process.pid)) - {watcher})
    (second,) = set(watchers(process.pid)) - {watcher}
    process.kill()
    process.wait()
    assert ended(second)
