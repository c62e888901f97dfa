"""The commands as a user types them."""

import json
import re

import pytest

from raydc.cli import console, overview
from raydc.cli import main as cli
from raydc.distributed import ray_cluster
from raydc.tracking.tracker import RecordPending
from tests.support.runs import TINY


def options(**changes: object) -> list[str]:
    values = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [f"--{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in values.items()]


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    assert cli.main(["train", *options(), f"--out={tmp_path / 'out'}", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "denoise" in printed and "parameters" in printed and not (tmp_path / "out").exists()


def test_train_assign_and_report(tmp_path, capsys):
    store = f"--tracking-uri=sqlite:///{tmp_path}/mlflow.db"
    assert cli.main(["train", *options(), f"--out={tmp_path / 'run'}", "--register=digits", store]) == 0
    printed = capsys.readouterr().out
    assert "registered as: models:/digits/1" in printed
    assert printed.count(f"tracking store: sqlite:///{tmp_path}/mlflow.db") == 2  # where it begins and where it ends
    *_, verdict, rule, step = printed.strip().splitlines()
    assert re.fullmatch(
        r"\d+ clusters: \d+ clear, \d+ doubtful( \(.*\))?; (under )?\d+ % of the rows belong nowhere", verdict
    )
    assert rule.startswith("(clear: neighbours share the cluster, beyond chance, for 0.") and step.startswith("next: ")
    assert not re.search(r"\d\.\d{4}", printed.partition("what it means")[2])
    again = cli.main(["train", f"--config={tmp_path / 'run' / 'config.yaml'}"])
    assert again == 0 and "finished: nothing to do" in capsys.readouterr().out
    code = cli.main(["assign", "--model=models:/digits@champion", "--data=digits", f"--out={tmp_path / 'new'}", store])
    assert code == 0
    printed = capsys.readouterr().out
    assert "1,797 rows in 10 clusters" in printed
    assert printed.strip().splitlines()[-1].startswith("next: ")
    assert cli.main(["registry", "list", store]) == 0
    assert re.search(r"digits +│ 1 +│ 1 +│ dec", capsys.readouterr().out)
    assert cli.main(["registry", "promote", "models:/digits/1", store]) == 0
    assert "models:/digits@champion is version 1 now" in capsys.readouterr().out
    assert cli.main(["registry", "show", "digits", store]) == 0
    printed = capsys.readouterr().out
    assert "champion" in printed and printed.strip().splitlines()[-1].startswith(
        "next: raydc assign --model models:/digits"
    )
    assert cli.main(["registry", "promote", "digits/7", store]) == cli.DATA_ERROR
    assert "has no version 7; it has @champion (version 1), /1" in capsys.readouterr().err
    assert cli.main(["report", f"--run={tmp_path / 'run'}", f"--out={tmp_path / 'report'}"]) == 0
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "bogus: no such command; first comes one of train, "),
        (["trian"], "trian: no such command; did you mean train?"),
        (["--insecure", "train"], "--insecure: no such command; first comes one of"),
        (["train", "--config"], "--config: expected one argument"),
        (["train", "--method"], "--method/--method.name: expected one argument"),
        (["train", "--method=dec", "--n_clusters", "5"], "--n_clusters: no such option; did you mean --n-clusters?"),
        (["train", "5"], "'5': expected an option; raydc train --help lists them"),
        (["tune", "--trails", "3"], "--trails: no such option; did you mean --trials?"),
        (["tune", "--config"], "--config: expected one argument"),
        (["methods", "--colour"], "--colour: no such option; raydc methods --help lists them"),
        (["registry"], "the following arguments are required: action"),
        (["registry", "flush"], "registry flush: expected --out DIR"),
        (["registry", "show"], "registry show: expected a MODEL"),
        (["registry", "list", "digits"], "registry list: takes no MODEL"),
        (["registry", "promote", "digits"], "registry promote: expected NAME/VERSION such as digits/2, got 'digits'"),
    ],
)
def test_what_is_no_command_or_option_is_a_usage_error(capsys, monkeypatch, arguments, said):
    monkeypatch.setenv(ray_cluster.INSECURE, "")  # which --insecure sets
    assert cli.main(arguments) == cli.USAGE_ERROR == 64
    shown = capsys.readouterr()
    assert shown.err.startswith(f"raydc: {said}") and "usage:" not in shown.out + shown.err


def test_a_search_whose_record_waits_says_where_everything_is(tmp_path, monkeypatch, capsys):
    def pending(*arguments: object) -> None:
        problem = RecordPending("MLflow is away")
        problem.paths = {"report": "out/report/index.html"}
        raise problem

    monkeypatch.setattr("raydc.search.tune_and_record", pending)
    assert cli.main(["tune", "--data=digits", "--space=any.py", f"--out={tmp_path / 'out'}"]) == cli.TRY_AGAIN
    shown = capsys.readouterr()
    assert "report: out/report/index.html" in shown.out and "MLflow is away" in shown.err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_each_is_told_with_a_line_and_an_example(capsys, arguments):
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert [*overview.COMMANDS] == [*cli.COMMANDS] and "raydc COMMAND --help" in text
    lines = [line.strip() for line in text.splitlines()]
    assert all(what in text and example in lines for what, example in overview.COMMANDS.values())


@pytest.mark.parametrize("command", ["train", "tune"])
def test_examples_are_made_of_options_that_there_are(command, monkeypatch):
    monkeypatch.setattr(cli, "_watched", lambda action: 0)
    assert cli.main(overview.COMMANDS[command][1].split()[1:]) == 0


def shown(capsys, *arguments):
    with pytest.raises(SystemExit) as asked:
        cli.main([*arguments])
    assert asked.value.code == 0
    return set(re.findall(r"^  (?:-h, )?(--[\w.-]+)", capsys.readouterr().out, re.MULTILINE))


@pytest.mark.parametrize("command", ["train", "tune", "assign"])
def test_help_shows_the_settings_that_matter_and_help_all_the_rest(capsys, command):
    few, everything = shown(capsys, command, "--help"), shown(capsys, command, "--help-all")
    assert few < everything and len(few) <= 20 and {"--data", "--out"} <= few


def test_help_all_knows_every_setting(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--method", "dec", "--help-all"])
    text = capsys.readouterr().out
    assert "--method.cluster.optimizer.lr" in text and "[0.0001]" in text and "Degrees of freedom" in text


def test_brackets_in_paths_and_errors_are_printed_as_they_are(capsys):
    console.Live().note("rank 1: [/src/transport/pair.cc:553] Connection closed, runs/[a] is kept")
    assert "rank 1: [/src/transport/pair.cc:553] Connection closed, runs/[a] is kept" in capsys.readouterr().out


def test_fixed_settings_of_a_file(tmp_path, monkeypatch):
    (tmp_path / "search.yaml").write_text(
        "data: {path: digits}\nspace: s.py\nout: here\n"
        "fixed:\n  method: {pretrain: {length: 5}}\n  training.batch_size: 64\n  method.nu: 2\n"
    )
    seen = []
    monkeypatch.setattr(console.LiveSearch, "run", lambda self, settings, stop: seen.append(settings.fixed))
    command = ["tune", "--config", str(tmp_path / "search.yaml")]
    assert cli.main(command) == 0 and cli.main([*command, "--set", "method.nu=3"]) == 0
    assert seen[0] == {"method.pretrain.length": 5, "method.nu": 2, "training.batch_size": 64}
    assert seen[1] == seen[0] | {"method.nu": "3"}
    (tmp_path / "search.yaml").write_text("data: {path: digits}\nspace: s.py\nout: here\nfixed: [5]\n")
    assert cli.main(command) == cli.USAGE_ERROR


def test_an_assignment_is_told_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [index + 1 for index in range(40)]
    summary = {
        **{"rows": 820, "dropped": 12, "dropped_rows": [*range(12)], "clusters": [*range(40)], "sizes": sizes},
        **{"names": {39: "boots"}, "suggested": {39: "high a", 38: "low a"}, "nowhere": 0, "dropped_clusters": False},
        **{"notes": [], "membership": 0.5, "agreement": None, "far": 8, "unseen": {}, "files": 1, "out": "there"},
        **{"ids": "row numbers", "written": 0, "asked": {"level": None, "outliers": None}},
    }
    console.assigned(summary)
    printed = capsys.readouterr().out
    assert re.search(r"39 +│ 40 +│ boots.*\n.*38 +│ 39 +│ low a", printed) and "│ 10 more │ 55   │" in printed
    assert "left out: 12 bad rows: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...\n" in printed
    assert "output: there (1 file, already there)" in printed
