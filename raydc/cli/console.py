"""What the commands print."""

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live as RichLive
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from raydc.clustering.distances import FAR
from raydc.core.nouns import counted
from raydc.data import features_named
from raydc.data.units import scaling_named
from raydc.pipelines.report import words
from raydc.pipelines.train import RunPlan
from raydc.search.words import chosen_by, deciding, of_scales, ranked
from raydc.tracking.tracker import RecordPending
from raydc.training.config import Workers
from raydc.training.loop import Progress
from raydc.training.model import TRUST
from raydc.training.worker_job import Job

if TYPE_CHECKING:
    from raydc.search import SearchState, TuneSettings

SHOWN = 30
"""Clusters that a table has a line for."""
QUIET = 5.0
"""Seconds between two lines where the output is no terminal."""


def _workers(workers: Workers) -> str:
    return counted(1, "worker") if workers == workers.least == 1 else f"{workers.plain()} workers"


def plain_console(**options: Any) -> Console:
    """Brackets and colons in paths, settings and errors are no markup."""
    return Console(markup=False, emoji=False, **options)


def _places(console: Console, places: Mapping[str, Any]) -> None:
    """A line each, whole, so that paths can be copied."""
    for name, place in places.items():
        console.print(f"{name}: {place}", soft_wrap=True, highlight=False)


class Live:
    """A run as it goes on: a bar per phase on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or plain_console()
        self.bars: Bars | None = None
        self.task: TaskID | None = None
        self.phase, self.printed = "", 0.0
        self.job: Job | None = None

    def start(self, job: Job, phases: dict[str, int]) -> None:
        self.job = job
        profile, training = job.profile, job.config.training
        for note in profile.notes:
            self.console.print(f"note: {note}", style="dim")
        where = _workers(training.workers) if training.workers else "this process"
        what = f"{counted(profile.rows, 'row')} of {'x'.join(map(str, job.shape))}"
        batches = f", batches of {job.batch_size}" if phases else ""  # k-means takes none
        self.console.print(f"{job.config.method_name} on {what}{batches}, in {where}")
        self.console.print(features_named(job.columns, job.shape))
        self.console.print(scaling_named(job.scaling.kind))
        if self.console.is_terminal:
            text = TextColumn("{task.description}  {task.completed:.0f}/{task.total:.0f}  {task.fields[state]}")
            self.bars = Bars(BarColumn(24), text, TimeElapsedColumn(), console=self.console)
            self.bars.start()

    def progress(self, progress: Progress) -> None:
        state = " ".join(f"{name} {value:.4g}" for name, value in progress.losses.items())
        if progress.alive is not None:
            state += f", {counted(progress.alive, 'cluster')}"
        if progress.changed is not None:
            state += f", {progress.changed:.2%} changed"
        if self.bars is not None:
            if progress.phase != self.phase:
                self.task = self.bars.add_task(progress.phase, total=progress.epochs, state="")
            assert self.task is not None
            total = progress.epoch if progress.last else progress.epochs
            self.bars.update(self.task, completed=progress.epoch, total=total, state=state)
        elif progress.last or progress.phase != self.phase or time.monotonic() - self.printed > QUIET:
            self.console.print(f"{progress.phase} {progress.epoch}/{progress.epochs}: {state}")
            self.printed = time.monotonic()
        self.phase = progress.phase

    def note(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def stop(self) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = None

    def finish(self, summary: dict[str, Any], paths: dict[str, str]) -> None:
        self.stop()
        for warning in summary["warnings"]:
            self.console.print(f"warning: {warning}", style="yellow")
        self.console.print(measures(summary))
        _places(self.console, paths)
        if "aligned" in summary:
            self.console.print(words.of_alignment(summary["aligned"]), soft_wrap=True, highlight=False)
        assert self.job is not None
        config, verdict = self.job.config, summary.get("verdict")
        step = words.after_training(
            verdict,
            data=config.data.path,
            method=config.method_name,
            n_clusters=summary["found"],
            model=_registered(paths) or f"{paths['output']}/model",
            refuses=bool(self.job.kind.info.refuses),
        )
        close(self.console, verdict, step)


class LiveSearch:
    """A search as it goes on: a table on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console, self.printed = console or plain_console(), 0.0

    def run(self, settings: "TuneSettings", stop: threading.Event) -> None:
        from raydc.search import SearchWatch, tune_and_record

        with RichLive(_standing(), console=self.console, transient=True) as live:

            def show(state: "SearchState") -> None:
                if self.console.is_terminal:
                    live.update(_standing(state))
                elif time.monotonic() - self.printed > QUIET:
                    self.console.print(_line(state))
                    self.printed = time.monotonic()

            try:
                summary, paths = tune_and_record(settings, SearchWatch(show, self.console.print, self.found, stop))
            except RecordPending as pending:
                _places(self.console, pending.paths)
                raise
        _places(self.console, paths)
        model = _registered(paths) or f"{paths['output']}/model"
        if not summary["structure"]:
            self.console.print(words.NO_STRUCTURE, style="bold", soft_wrap=True)
        close(self.console, summary["verdict"], words.after_search(summary, model, paths["output"]))

    def found(self, summary: dict[str, Any]) -> None:
        self.console.print(trials(summary))
        winner = summary["winner"]
        self.console.print(
            f"winner: trial {winner['number']}, {winner['method']}: {chosen_by(summary)}", soft_wrap=True
        )
        for line in of_scales(summary):
            self.console.print(line, soft_wrap=True, highlight=False)


def _cells(state: "SearchState") -> list[str]:
    best = state.best
    done, planned = state.replicas
    left = f"{state.seconds_left:.0f} s" if state.seconds_left is not None else ""
    shown = [str(best.number), best.method, f"{best.score:.3f}"] if best else ["", "", ""]
    return [f"{len(state.records)}/{state.asked}", str(len(state.running)), f"{done}/{planned}", *shown, left]


def _standing(state: "SearchState | None" = None) -> Table:
    """Where a search stands; before it begins, what will be told."""
    table = Table("finished", "running", "replicas", "best trial", "method", "score", "time left")
    if state is not None:
        table.add_row(*_cells(state))
    return table


def _line(state: "SearchState") -> str:
    finished, running, replicas, number, method, score, left = _cells(state)
    best = f", best {number} ({method}) {score}" if number else ""
    return f"trials {finished}, {running} running, replicas {replicas}{best}" + (f", {left} left" if left else "")


def trials(summary: dict[str, Any]) -> Table:
    """A search's trials, the winner first, then by the number that chooses."""
    criterion = summary["criterion"]
    title = "trials: the winner, finalists by the number that chooses, the others by their score"
    table = Table("trial", "method", "status", "K", "score", criterion, "seconds", title=title)
    for one in ranked(summary):
        value = deciding(summary, one["number"])
        cells = [one["number"], one["method"], one["status"], one["n_clusters"], f"{one['score']:.3f}"]
        table.add_row(*map(str, cells), "" if value is None else f"{value:.3f}", f"{one['seconds']:.1f}")
    return table


def close(console: Console, verdict: Mapping[str, Any] | None, step: str) -> None:
    """The last lines of a command: what it means, by which rule, and what to do next."""
    if verdict is not None:
        console.print(words.told(verdict), style="bold", soft_wrap=True)
        console.print(f"({words.rule(verdict)})", style="dim", soft_wrap=True)
    console.print(f"next: {step}", soft_wrap=True, highlight=False)


def _registered(paths: Mapping[str, str]) -> str | None:
    """The registered version's URI, without the alias that is told beside it."""
    return paths["registered as"].split()[0] if "registered as" in paths else None


def measures(summary: dict[str, Any]) -> Table:
    """A finished run's measures, beside those of the labels when clustering began, and what each means."""
    sizes = [size for size in summary["sizes"] if size]
    span = f"{min(sizes):,} to " if min(sizes) < max(sizes) else ""
    table = Table(title=f"{counted(summary['found'], 'cluster')} of {span}{counted(max(sizes), 'row')}")
    table.add_column("measure")
    table.add_column("final", justify="right")
    before = summary["initial"] or {}
    if before:  # k-means has none
        table.add_column("when clustering began", justify="right")
    table.add_column("what it means")
    for name, value in (summary["measures"] | (summary["labels"] or {})).items():
        first = [words.rounded(before[name]) if name in before else ""] if before else []
        table.add_row(name.upper() if len(name) == 3 else name, words.rounded(value), *first, words.gloss(name))
    return table


def over_seeds(result: Mapping[str, Any], out: str) -> None:
    """What several seeds come to together."""
    console, seeds = plain_console(), result["seeds"]
    table = Table("measure", "mean", "deviation", "lowest", "highest", "what it means", title=f"{len(seeds)} seeds")
    for name, found in result["measures"].items():
        told = [found["mean"], found["deviation"], min(found["values"]), max(found["values"])]
        table.add_row(name.upper() if len(name) == 3 else name, *map(words.rounded, told), words.gloss(name))
    console.print(table)
    console.print(words.of_seeds(result["agreement"]), style="bold", soft_wrap=True)
    best = seeds[max(range(len(seeds)), key=result["measures"]["score"]["values"].__getitem__)]
    close(console, None, f"open {out}/seed-{best}/report/index.html (the highest score, which uses no labels)")


def plan(planned: RunPlan) -> None:
    """What a run would do and cost."""
    job, console = planned.job, plain_console()
    training = job.config.training
    for note in job.profile.notes:
        console.print(f"note: {note}", style="dim")
    console.print(features_named(job.columns, job.shape))
    console.print(scaling_named(job.scaling.kind))
    table = Table(
        title=f"{job.config.method_name}: {counted(job.profile.rows, 'row')} of {'x'.join(map(str, job.shape))}"
    )
    table.add_column("phase")
    table.add_column("steps at most", justify="right")
    table.add_column("minutes at most", justify="right")
    for name, steps in planned.steps.items():
        table.add_row(name, f"{steps:,}", f"{planned.seconds[name] / 60:.1f}")
    for name in planned.unknown:
        table.add_row(name, "not known", "not known")
    table.add_row(
        "all" if not planned.unknown else "the others",
        f"{sum(planned.steps.values()):,}",
        f"{sum(planned.seconds.values()) / 60:.1f}",
    )
    console.print(table)
    batches = f"batches of {planned.batch_size}, " if planned.batch_size else ""
    again = f" and {planned.streamed / 1e6:,.1f} MB read again in each iteration" if planned.streamed else ""
    console.print(
        f"workers {training.workers.plain()}, {batches}{planned.parameters:,} parameters, "
        f"{planned.memory / 1e6:,.1f} MB of rows a worker{again}; times are of this machine's CPU in fp32"
    )
    state = "is finished there already" if planned.run.finished else "would be written there"
    console.print(f"{job.config.output.out}: the run {state}; nothing was started")
    close(console, None, "the same command without --dry-run")


def assigned(summary: dict[str, Any]) -> None:
    """What an assignment did."""
    console = plain_console()
    for note in summary["notes"]:
        console.print(f"note: {note}", style="dim")
    console.print(_filled(summary))
    agreement = "the model has no replicas" if summary["agreement"] is None else f"{summary['agreement']:.3f}"
    far, share = counted(summary["far"], "row"), summary["far"] / max(1, summary["rows"])
    lines = [
        f"mean membership: {summary['membership']:.3f} ({TRUST['membership']})",
        f"mean agreement: {agreement} ({TRUST['agreement']})",
        f"far: {far} ({share:.1%}), by a distance above {FAR}, as 1% of the training rows ({TRUST['distance']})",
    ]
    if summary["dropped"]:
        first, more = summary["dropped_rows"][:10], ", ..." if summary["dropped"] > 10 else ""
        lines.append(f"left out: {counted(summary['dropped'], 'bad row')}: {', '.join(map(str, first))}{more}")
    for line in lines:
        console.print(line, highlight=False)
    again = "" if summary["written"] else ", already there"
    files = counted(summary["files"], "file") + again
    _places(console, {"ids": summary["ids"], "output": f"{summary['out']} ({files})"})
    console.print(words.of_assignment(summary), style="bold", soft_wrap=True)
    close(console, None, words.after_assignment(summary))


def _filled(summary: Mapping[str, Any]) -> Table:
    """Clusters of an assignment: how many rows are in each, the largest first, and its name or the suggested one."""
    sizes, named = summary["sizes"], summary["suggested"] | summary["names"]
    columns = ["cluster", "rows", *(["name"] if named else [])]
    table = Table(*columns)
    clusters = sorted(summary["clusters"], key=lambda cluster: -sizes[cluster])
    for cluster in clusters[:SHOWN]:
        table.add_row(str(cluster), f"{sizes[cluster]:,}", *([named.get(cluster, "")] if named else []))
    if others := clusters[SHOWN:]:
        rows = sum(sizes[cluster] for cluster in others)
        table.add_row(f"{len(others)} more", f"{rows:,}", *([""] if named else []))
    return table


def flushed(sent: dict[str, int], paths: dict[str, str]) -> None:
    """What was sent to MLflow, and where it is."""
    console = plain_console()
    told = ", ".join(f"{count} {kind}" for kind, count in sent.items())
    console.print(f"sent: {told or 'nothing was left'}")
    _places(console, paths)
    close(console, None, "nothing: MLflow has the whole record now")
