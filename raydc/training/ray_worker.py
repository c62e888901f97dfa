"""What runs in Ray Train's workers, and the actor through which they tell the driver of each epoch.

One message an epoch that nobody waits for: Ray Train's own `report` costs a poll of its controller each time. Nothing
heavy is imported here, so that the actor is there in a moment.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from raydc.distributed.watchdog import watch

if TYPE_CHECKING:
    from raydc.training.loop import Loop, Progress


class Reporter:
    """The actor between rank 0 and the driver."""

    def __init__(self) -> None:
        self.waiting: list[tuple[dict[str, Any], Any]] = []
        self.stopping = False

    def push(self, progress: dict[str, Any], found: Any) -> bool:
        """Take an epoch's report; whether the driver wants to stop."""
        self.waiting.append((progress, found))
        return self.stopping

    def drain(self, stop: bool) -> list[tuple[dict[str, Any], Any]]:
        self.stopping = stop
        waiting, self.waiting = self.waiting, []
        return waiting


def work(config: dict[str, Any]) -> str:
    """Train on this worker's rows; finished or interrupted."""
    watch(config["job"].config.training.hang_after)
    import ray.train
    import ray.train.torch

    from raydc.training import worker_job

    rank0 = ray.train.get_context().get_world_rank() == 0
    answers: list[Any] = []
    loops: list[Loop] = []
    look = config["look"]

    def on_epoch(progress: "Progress") -> bool:
        """Report, and read the driver's answers as they come in: training waits for neither."""
        if not rank0:
            return False
        found = look(loops[0], progress) if look else None
        answers.append(config["reporter"].push.remote(asdict(progress), found))
        ready, answers[:] = ray.wait(answers, num_returns=len(answers), timeout=0)
        return any(ray.get(ready))

    device = str(ray.train.torch.get_device()) if config["gpu"] else "cpu"
    job, store = config["job"], config["store"]
    return worker_job.work(job, store=store, on_epoch=on_epoch, on_start=loops.append, device=device).status
