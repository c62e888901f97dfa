from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from raydc.core.schedule import Clustering, Joint, Phase, steps
from raydc.core.settings import Settings, SettingsError, build, differences, fields, flatten, unflatten
from raydc.methods import available, load
from raydc.training.config import RunConfig, overlaid, read_yaml

RUN = {"method": {"name": "dec"}, "data": {"path": "digits"}, "output": {"out": "somewhere"}}


def test_every_problem_is_listed_at_once_with_the_nearest_name():
    values = unflatten(
        {"method.name": "dec", "method.nuu": 2, "method.nu": -1, "data.pathh": "x", "training.workers": -1}
    )
    with pytest.raises(SettingsError) as caught:
        RunConfig.of(values)
    lines = str(caught.value).splitlines()
    assert any(line.startswith("method.nuu: no such setting; did you mean method.nu") for line in lines)
    assert any(line.startswith("method.nu: ") and line.endswith("got -1") for line in lines)
    assert any("data.pathh" in line and "data.path" in line for line in lines)
    assert any(line.startswith("training.workers: ") for line in lines)
    assert any(line.startswith("output.out: ") for line in lines)


def test_a_list_with_a_wrong_item_is_not_called_too_short():
    class Items(Settings):
        """Numbers."""

        numbers: tuple[int, ...] = Field(min_length=2)

    with pytest.raises(SettingsError) as caught:
        build(Items, {"numbers": [1, "x"]})
    assert str(caught.value).startswith("numbers.1: ") and "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match=r"numbers: .*at least 2"):
        build(Items, {"numbers": [1]})


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(SettingsError, match="no method 'deec'; did you mean dec"):
        load("deec")


def test_a_resolved_configuration_repeats_itself():
    for name in available():
        config = RunConfig.of({**RUN, "method": {"name": name}})
        assert RunConfig.of(config.resolved()) == config
        assert RunConfig.of(unflatten(config.flat())) == config


def test_a_recipe_stands_behind_what_is_given():
    config = RunConfig.of({**RUN, "method": {"name": "dec", "recipe": "paper", "cluster": {"length": "7 steps"}}})
    cluster = config.method.model_dump()["cluster"]
    assert cluster["length"] == "7 steps" and cluster["update_every"] == "160 steps" and cluster["alpha"] == 1.0
    assert RunConfig.of(config.resolved()) == config
    with pytest.raises(SettingsError, match="no recipe 'papper'"):
        RunConfig.of({**RUN, "method": {"name": "dec", "recipe": "papper"}})


def test_every_setting_is_documented():
    for name in available():
        for path, field in fields(load(name).Config, "method"):
            assert field.description, f"{name}: {path} has no documentation"


def test_lengths_by_hand():
    assert steps(build(Phase, {"length": "3 epochs"}).length, 10) == 30
    assert steps(build(Phase, {"length": 0.5}).length, 10) == 5
    assert steps(build(Phase, {"length": "7 steps"}).length, 10) == 7
    assert steps(build(Phase, {"length": 0}).length, 10) == 0
    with pytest.raises(SettingsError, match='expected a length such as "300 epochs"'):
        build(Phase, {"length": "long"})
    with pytest.raises(SettingsError, match="update_every: expected an interval above 0"):
        build(Clustering, {"update_every": "0 epochs"})


@pytest.mark.parametrize("length", ["1e6 steps", "1234567 steps", "2.5e6 steps", "0.1 epochs", "1e-05 epochs", 3])
def test_a_length_that_was_written_is_read_again(length):
    phase = build(Phase, {"length": length})
    assert build(Phase, phase.model_dump()) == phase


def test_alpha_ramps_by_hand():
    phase = Joint(alpha=0.5, ramp=0.5)
    assert [phase.alpha_at(t) for t in (0.0, 0.25, 0.5, 0.9)] == [0.0, 0.25, 0.5, 0.5]


keys = st.text(st.characters(categories=("Ll",)), min_size=1, max_size=3)
trees = st.recursive(st.integers(), lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3), max_leaves=8)


@given(st.dictionaries(keys, trees, max_size=4))
def test_dots_lose_nothing(values):
    assert unflatten(flatten(values)) == values


def test_of_many_settings_that_differ_a_message_shows_five():
    before, now = dict.fromkeys("abcdefg", 1), dict.fromkeys("abcdefg", 2) | {"a": "mysql://me:secret@host"}
    assert differences(before, now, ["b", "c"]) == "b was 1 and is 2, c was 1 and is 2"
    said = differences(before, now, [*"abcdefg"])
    assert said.count(" was ") == 5 and said.endswith(", 2 others differ too") and "secret" not in said


def test_a_number_in_a_file_is_a_list_of_one_as_on_the_command_line():
    for value in (8, "8", [8]):
        assert build(load("ae_kmeans").Config, {"network": {"channels": value}}, at="method").network.channels == (8,)
    with pytest.raises(SettingsError, match=r"method\.network\.channels: .*got True"):
        build(load("ae_kmeans").Config, {"network": {"channels": True}}, at="method")


def test_none_is_nothing_but_where_it_is_a_choice():
    class Choice(Settings):
        kind: Literal["none", "some"] | None = None
        rows: int | None = 3

    assert Choice(kind="none").kind == "none" and Choice(kind=None).kind is None
    assert build(Choice, {"rows": "none"}).rows is None


@pytest.mark.parametrize(
    "given, says",
    [
        ({"name": "adam", "momentum": 0.9}, "momentum has an effect only where name is sgd or rmsprop, and it is adam"),
        ({"name": "sgd", "beta1": 0.5}, "beta1 has an effect only where name is adam or adamw, and it is sgd"),
        ({"name": "sgd", "eps": 1e-4}, "eps .* adam or adamw or rmsprop"),
        ({"name": "rmsprop", "momentum": 0.9, "nesterov": True}, "nesterov .* sgd, and it is rmsprop"),
        ({"factor": 0.5}, "factor .* schedule is step or inverse, and it is constant"),
        ({"schedule": "inverse", "every": "3 epochs"}, "every .* step, and it is inverse"),
        ({"schedule": "cosine", "power": 0.5}, "power .* inverse, and it is cosine"),
        ({"momentum_ramp": "9 steps"}, "momentum_ramp .* sgd, and it is adam"),
        ({"floor": 1e-5}, "floor .* step or cosine or inverse, and it is constant"),
    ],
)
def test_a_step_rule_refuses_what_it_does_not_use(given, says):
    with pytest.raises(SettingsError, match=f"at.optimizer: {says}"):
        build(Phase, {"optimizer": given}, at="at")


def test_another_step_rule_drops_what_the_methods_own_one_had():
    generator = build(load("infogan").Config, {"generator": {"name": "sgd"}}, at="method").generator
    assert (generator.name, generator.beta1, generator.lr) == ("sgd", 0.9, 1e-3)
    cluster = build(load("jule").Config, {"cluster": {"optimizer": {"name": "adam"}}}, at="method").cluster.optimizer
    assert (cluster.momentum, cluster.schedule, cluster.factor) == (0.0, "inverse", 1e-4)
    paper = build(load("dec").Config, {"recipe": "paper", "cluster": {"optimizer": {"name": "adam"}}}, at="method")
    assert paper.cluster.optimizer.momentum == 0.0 and paper.cluster.optimizer.lr == 0.01


@pytest.mark.parametrize(
    "method, shape, given, says",
    [
        ("dec", (6,), {"layerwise": {"corruption": 0.4}}, "method.layerwise.corruption: 0.4 .* length 0"),
        ("dec", (6,), {"denoise": {"length": 0, "optimizer": {"lr": 0.1}}}, "method.denoise.optimizer.lr: 0.1"),
        ("dec", (6,), {"network": {"channels": (4,)}}, "method.network.channels"),
        ("dec", (6,), {"network": {"family": "conv"}}, "method.network.family: conv .* have an mlp"),
        ("dac", (1, 8, 8), {"network": {"hidden": (4,)}}, "method.network.hidden"),
        ("dbc", (1, 8, 8), {"layerwise": {"length": "5 epochs"}}, "method.layerwise.length: 5 epochs"),
        ("dec", (1, 8, 8), {"augment": {"interpolation": "nearest"}}, "method.augment.interpolation"),
        ("idec", (6,), {"recipe": "image"}, "method.recipe: image has no effect on rows of shape .* data.shape"),
        ("dec", (6,), {"reset": {"keep": 0.5}}, "method.reset.keep: 0.5 .* nothing is reset"),
        ("ae_kmeans", (6,), {"reset": {"every": 5}}, "method.reset.every: 5 epochs .* nothing is clustered while"),
        ("dcc", (6,), {"reset": {"every": 5}}, "method.reset.every: 5 epochs .* annealed anew"),
        ("dsc", (6,), {"reset": {"every": 5}}, "method.reset.every: 5 epochs .* codes that they began with"),
        ("dcn", (6,), {"reset": {"every": 5}, "network": {"hidden": ()}}, "method.reset.every: .* no hidden layer"),
    ],
)
def test_settings_without_effect_on_the_rows_are_refused(method, shape, given, says):
    kind = load(method)
    with pytest.raises(SettingsError, match=says):
        kind.check_settings(build(kind.Config, given, at="method"), shape)
    kind.check_settings(kind.Config(), shape)


@pytest.mark.parametrize("method", ["ae_kmeans", "dec", "idec"])
def test_a_phase_of_a_recipe_that_cannot_run_is_recorded_as_left_out(method):
    kind = load(method)
    image, table = (1, 8, 8), (64,)
    config = build(kind.Config, {"recipe": "paper", "network": {"family": "conv"}}, at="method")
    recorded = kind.settled(config, image)
    assert steps(config.layerwise.length, 1) and not steps(recorded.layerwise.length, 1)
    assert recorded.pretrain == config.pretrain
    repeated = build(kind.Config, recorded.model_dump(mode="json"), at="method")
    assert kind.settled(repeated, image) == repeated == recorded, "what it records, it repeats"
    mlp = build(kind.Config, {"recipe": "paper", "network": {"family": "mlp"}}, at="method")
    assert kind.settled(mlp, table) == mlp


@pytest.mark.parametrize(("name", "value"), [("hang_after", 3.0), ("patience", 5.0), ("max_failures", 0)])
def test_what_becomes_of_workers_is_no_setting_of_a_run_without_them(name, value):
    with pytest.raises(SettingsError, match=rf"training: {name}: no effect where workers is 0"):
        RunConfig.of({**RUN, "training": {"workers": 0, name: value}})
    assert getattr(RunConfig.of({**RUN, "training": {"workers": 1, name: value}}).training, name) == value


def test_another_recipe_or_method_over_a_file_that_lists_all_settings_acts():
    before = RunConfig.of({**RUN, "method": {"name": "dec", "nu": 2.0, "cluster": {"length": "9 epochs"}}}).resolved()
    paper = RunConfig.of(overlaid(before, {"method.recipe": "paper"}))
    fresh = RunConfig.of({**RUN, "method": {"name": "dec", "recipe": "paper", "nu": 2.0}}).method
    assert paper.method == fresh.model_copy(update={"cluster": paper.method.cluster})
    assert paper.method.cluster.length == "9 epochs" and paper.method.cluster.update_every == "160 steps"
    back = RunConfig.of(overlaid(paper.resolved(), {"method.recipe": "default"}))
    assert back == RunConfig.of(before)
    other = RunConfig.of(overlaid(before, {"method.name": "idec"})).method
    assert other.cluster.alpha == load("idec").Config().cluster.alpha and other.nu == 2.0
    with pytest.raises(SettingsError, match=r"method.nu: no such setting"):
        RunConfig.of(overlaid(before, {"method.name": "dac"}))
    assert RunConfig.of(before).with_settings({"method.recipe": "paper"}) == paper


@pytest.mark.parametrize(
    "text",
    [
        "method: dec\ndata: rows/\nn_clusters: 5\nout: here\nworkers: 1..2\n",
        "method.name: dec\ndata.path: rows/\nmethod.n_clusters: 5\noutput.out: here\ntraining.workers: 1..2\n",
        "method: {name: dec, n_clusters: 5}\ndata: {path: rows/}\noutput: {out: here}\ntraining.workers: 1..2\n",
        "method: dec\nmethod.n_clusters: 5\ndata: rows/\ntraining:\nout: here\ntraining.workers: 1..2\n",
        "method: dec\nn-clusters: 5\ndata: rows/\noutput: {}\nout: here\nworkers: 1..2\n",
    ],
)
def test_a_file_may_say_settings_as_the_command_line_does(text, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    config = RunConfig.of(read_yaml(str(tmp_path / "run.yaml")))
    assert (config.method_name, config.method.n_clusters, config.data.path) == ("dec", 5, "rows/")
    assert config.output.out == "here" and config.training.workers.plain() == "1..2"


@pytest.mark.parametrize(
    "text, says",
    [
        ("method: dec\nmethod.name: idec\n", "method.name: is given twice"),
        ("method: [dec]\ndata: rows\nout: here\n", "no method"),
        ("training: 3\nmethod: dec\ndata: rows\nout: here\n", "training: expected a group of settings, got 3"),
        ("- dec\n", "expected settings such as 'method: dec', got list"),
    ],
)
def test_a_file_that_says_no_settings_is_refused(text, says, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SettingsError, match=says):
        RunConfig.of(read_yaml(str(tmp_path / "run.yaml")))


def test_a_group_that_is_missing_is_told_by_what_is_needed_in_it():
    class Rows(Settings):
        """Rows."""

        path: str
        """Where the rows
        are."""
        shape: int = 0

    class Search(Settings):
        """A search."""

        rows: Rows

    class Several(Settings):
        """Searches."""

        searches: tuple[Search, ...]

    with pytest.raises(SettingsError, match=r"^rows\.path: has to be given\. Where the rows are\.$"):
        build(Search, {})
    with pytest.raises(SettingsError, match=r"^searches\.0\.rows: has to be given\.$"):
        build(Several, {"searches": [{}]})
