"""The space in which neighbours count, chosen without labels, and the rows and the graph in it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raydc.clustering import views
from raydc.clustering.metrics import graph
from raydc.clustering.metrics.external import accuracy, contingency
from raydc.data import DataError
from raydc.search.evaluation import plain_kmeans, prepare
from raydc.search.reference import of_embedding, of_rows
from tests.support.searches import asked, rows, written

GROUPS = np.repeat(np.arange(4), 60)


def planted(kind: str) -> np.ndarray:
    """Rows [240, 80] with four groups that one view shows and others hide."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 80))
    if kind == "directions":  # lengths of all sizes
        return (np.exp(2 * rng.normal(size=(240, 1))) * (centres[GROUPS] + 2 * rng.normal(size=(240, 80)))).astype("f4")
    if kind == "units":  # one column in another unit
        found = centres[GROUPS] + rng.normal(size=(240, 80))
        found[:, 0] = 200 * rng.random(240)
        return found.astype("f4")
    return (centres[GROUPS] + 0.4 * rng.normal(size=(240, 80))).astype("f4")


@pytest.mark.parametrize(
    ("kind", "one_of"),
    [
        ("plain", {views.USUAL}),
        ("directions", {"cosine", "cosine of principal components"}),
        ("units", {"standardised", "whitened", "cosine of whitened"}),
    ],
)
def test_the_view_that_shows_the_groups_is_chosen(kind: str, one_of: set[str]) -> None:
    """In the usual view neighbours across groups are as near as those within."""
    found = planted(kind)
    chosen = views.choose(found, 0)
    assert chosen.view.name in one_of
    purity = graph.agreement(GROUPS, graph.neighbour_graph(chosen.view.apply(found), 8))
    assert purity > 0.9
    assert kind == "plain" or purity > 0.1 + graph.agreement(GROUPS, graph.neighbour_graph(found, 8))


def test_categories_keep_the_weight_that_their_encoding_gave_them() -> None:
    """Divided by their spread, rare categories outweigh all else, and rows fall apart into combinations of them."""
    rng = np.random.default_rng(0)
    groups, columns = np.arange(600) % 4, []
    for size in (5, 4, 3, 6):
        usual = rng.integers(size - 1, size=4)[groups]
        kind = np.where(rng.random(600) < 0.2, rng.integers(size, size=600), usual)
        columns.append(np.sqrt(0.5) * np.eye(size)[kind])
    numbers = rng.normal(0, 2, (4, 3))[groups] + rng.normal(size=(600, 3))
    found = np.column_stack([numbers, *columns]).astype(np.float32)
    reference = of_rows(found, found, "none", 8, 0)
    assert not reference.chosen.view.rescales and len(reference.blocks) == 4
    assert graph.agreement(groups, reference.graph) > 0.95
    blind = views.choose(found[graph.distinct(found)], 0)
    assert blind.view.rescales  # whose graph is clearer, and wrong
    assert graph.agreement(groups, graph.neighbour_graph(blind.view.apply(found), 8)) < 0.9


def test_zero_and_equal_rows_are_not_in_the_graph() -> None:
    found = planted("plain")
    found[5], found[17], found[30], found[31] = 0.0, -0.0, found[2], found[2]
    reference = of_rows(found, found, "none", 8, 0)
    ends = np.concatenate([reference.graph.left, reference.graph.right])
    assert set(range(240)) - set(ends.tolist()) == {5, 17, 30, 31}
    others = GROUPS.copy()
    others[[5, 17, 30, 31]] = 3
    assert graph.neighbour_score(others, reference.graph) == graph.neighbour_score(GROUPS, reference.graph)


def test_zero_rows_are_no_hubs() -> None:
    """Rows without a word are the neighbours of all text, by distance: they joined what has nothing in common."""
    rng = np.random.default_rng(0)
    text = np.zeros((300, 400), np.float32)
    for row, topic in zip(text, np.arange(300) % 10, strict=True):
        row[rng.choice(np.arange(topic * 40, topic * 40 + 40), 4, replace=False)] = 0.5
    text[:6] = 0
    with_them, without = graph.neighbour_graph(text, 8), graph.neighbour_graph(text, 8, graph.distinct(text))
    topics = np.arange(300) % 10
    assert graph.agreement(topics, without) > graph.agreement(topics, with_them) + 0.1


def test_too_few_rows_that_differ_are_refused() -> None:
    found = np.tile(np.eye(4, dtype=np.float32), (20, 1))
    with pytest.raises(DataError, match=r"4 of 80 evaluation rows differ from each other and from zero: too few .* 8"):
        of_rows(found, found, "none", 8, 0)
    with pytest.raises(DataError, match="4 of 80"):
        of_embedding(found, "codes.npy", 8, 0)


def test_the_same_rows_and_seed_give_the_same_reference(tmp_path: Path) -> None:
    settings = asked(written(tmp_path), tmp_path / "out", evaluation_rows=150)
    one, other = prepare(settings), prepare(settings)
    assert (one.chosen == other.chosen).all() and one.reference_name == other.reference_name
    assert (one.graph.left == other.graph.left).all() and (one.graph.right == other.graph.right).all()
    assert one.reference_name.startswith("principal components of the rows, scaled (power), 150 rows")
    again = prepare(settings.model_copy(update={"seed": 1}))
    assert (one.chosen != again.chosen).any() and accuracy(
        contingency(plain_kmeans(again.reference, 4, 0), rows()[1][again.chosen], 4, 4)
    ) == 1


def test_a_users_own_embedding_is_taken_as_it_is(tmp_path: Path) -> None:
    embedding = np.random.default_rng(0).normal(size=(240, 5)).astype(np.float32)
    np.save(tmp_path / "codes.npy", embedding)
    settings = asked(
        written(tmp_path), tmp_path / "out", reference=str(tmp_path / "codes.npy"), evaluation_rows=100, seed=3
    )
    context = prepare(settings)
    assert (context.reference == embedding[context.chosen]).all() and len(context.chosen) == 100
    assert context.space.chosen.view.name == "as given" and context.space.blocks == []


def test_what_is_said_of_the_view() -> None:
    found = planted("directions")
    reference = of_rows(found, found, "none", 8, 0)
    own, others = reference.chosen.view, reference.chosen.modularity
    assert reference.why.startswith(f"{own.name}, modularity of communities ") and reference.warnings == []
    assert all(f"{name} 0." in reference.why for name in others if name != own.name)
    weak = replace(reference, chosen=views.Chosen(own, {own.name: 0.41}, 7.25))
    assert "skewness 7.2, more than 5" in weak.warnings[0] and "modularity 0.41, below 0.5" in weak.warnings[1]
    assert of_embedding(found, "codes.npy", 8, 0).why.startswith("as given, modularity")
