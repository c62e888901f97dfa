from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydc.config import RunConfig
from raydc.methods import available, load
from raydc.phases import Clustering, Joint, Phase, steps
from raydc.settings import Settings, SettingsError, build, fields, flatten, unflatten

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


def test_none_is_nothing_but_where_it_is_a_choice():
    class Choice(Settings):
        kind: Literal["none", "some"] | None = None
        rows: int | None = 3

    assert Choice(kind="none").kind == "none" and Choice(kind=None).kind is None
    assert build(Choice, {"rows": "none"}).rows is None
