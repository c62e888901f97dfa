"""Criteria of a search by name: raydc's own, and those of others."""

import numpy as np
import pytest

from raydc.clustering.metrics import graph
from raydc.core import registries
from raydc.core.registries import PluginError
from raydc.core.settings import SettingsError, build
from raydc.data.settings import DataSettings
from raydc.search import criteria
from raydc.search.candidate import Candidate
from raydc.search.criteria import Comparison
from raydc.search.settings import CRITERIA, TuneSettings


@pytest.fixture
def others(monkeypatch):
    """Criteria of this process, for one test."""
    monkeypatch.setattr(registries, "_registered", {})
    return CRITERIA


@pytest.fixture(scope="module")
def asked():
    rows = np.repeat(np.eye(4), 10, axis=0) + np.random.default_rng(0).normal(0, 0.01, (40, 4))
    labels = np.arange(40) // 10
    pair = [Candidate(1, 4, 1.0, np.stack([labels] * 2)), Candidate(2, 2, 1.0, np.stack([labels // 2] * 2))]
    return Comparison(pair, graph.neighbour_graph(rows, 5), rows)


def test_a_function_of_one_training_is_a_criterion(others, asked):
    others.register("clusters", lambda labels, graph: float(len(np.unique(labels))))
    found = criteria.load("clusters")
    assert criteria.values_of(asked, ["clusters"])["clusters"].tolist() == [4.0, 2.0]
    assert found.of_one is not None and criteria.available()[-1] == "clusters"
    assert build(TuneSettings, settings("clusters")).criterion == "clusters"


def test_a_criterion_may_ask_about_all_candidates(others, asked):
    others.register("second", criteria.Criterion(lambda asked: np.arange(len(asked.candidates), dtype=float)))
    assert criteria.values_of(asked, ["second"])["second"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (lambda labels: 1.0, r"expected a function of \(labels, graph\) or a Criterion"),
        (lambda labels, graph: 1 / 0, "the criterion 'bad' failed: ZeroDivisionError"),
        (criteria.Criterion(lambda asked: np.zeros(7)), r"expected a number for each of 2 candidates, .* shape \(7,\)"),
    ],
)
def test_what_is_wrong_with_somebodys_criterion_is_said(others, asked, thing, said):
    others.register("bad", thing)
    with pytest.raises(PluginError, match=said):
        criteria.values_of(asked, ["bad"])


def test_a_name_that_nobody_has_is_refused_before_any_work(others):
    with pytest.raises(SettingsError, match=r"criterion: no criterion 'nobodys'; there are selector, .* ace"):
        build(TuneSettings, settings("nobodys"))


def settings(criterion):
    return {"data": DataSettings(path="digits"), "space": "s.py", "out": "out", "criterion": criterion}
