"""What clusters are called after edits, at a level of the tree, and where outliers are told apart."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from raydc.training.labels import (
    NOWHERE,
    Asked,
    Drop,
    Edit,
    Join,
    LabelMap,
    Merge,
    Rename,
    Revision,
    Split,
    cells_of,
    memberships_of,
)

JOINS = (Join(first=0, second=1, strength=9), Join(first=2, second=3, strength=5), Join(first=1, second=3, strength=1))
TWO = ((0.0, 0.0), (1.0, 1.0))


def edited(*edits: Edit, joins: tuple[Join, ...] = JOINS) -> LabelMap:
    plain = LabelMap(given=(0, 1, 2, 3), free=4, joins=joins)
    return plain.edited(Revision(of="models:/a/1", edits=edits))


def test_edits_by_hand() -> None:
    labels = edited(
        Merge(clusters=(3, 1)), Rename(cluster=3, name="boots"), Drop(cluster=0), Split(cluster=3, centroids=TWO)
    )
    cells = labels.cells
    assert cells.alive == (2, 3, 4) and cells.names == {3: "boots"} and cells.free == 5
    rows, nearest = np.array([0, 1, 2, 3, 3]), np.array([0, 0, 0, 1, 0])
    assert_array_equal(np.array(cells.ids)[cells_of(cells, rows, [nearest])], [NOWHERE, 3, 2, 4, 3])


def test_the_id_of_a_merged_cluster_is_never_given_again() -> None:
    labels = edited(Merge(clusters=(2, 3)), Split(cluster=0, centroids=TWO), Merge(clusters=(0, 4)))
    assert labels.cells.alive == (0, 1, 2)
    again = labels.edited(Revision(of="models:/a/2", edits=(Split(cluster=1, centroids=TWO),)))
    assert again.cells.alive == (0, 1, 2, 5)


def test_the_membership_of_a_split_goes_to_the_part_of_the_row() -> None:
    cells = edited(Merge(clusters=(0, 1)), Split(cluster=0, centroids=TWO)).cells
    told = memberships_of(cells, np.array([[0.5, 0.25, 0.25, 0]] * 2, np.float32), [np.array([0, 1])])
    assert_array_equal(told, [[0, 0, 0.25, 0, 0.75, 0], [0, 0, 0.25, 0, 0, 0.75]])


def test_undo_takes_back_what_was_done_together() -> None:
    first = edited(Merge(clusters=(0, 1)))
    second = first.edited(Revision(of="models:/a/2", edits=(Drop(cluster=2), Rename(cluster=0, name="x"))))
    assert second.undone() == first and first.undone().cells.alive == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="never edited"):
        first.undone().undone()


def test_a_map_is_the_same_after_it_was_written() -> None:
    labels = edited(Split(cluster=1, centroids=((0.1, float(np.float32(1 / 3))), (1e-30, 7.0))))
    again = LabelMap.model_validate_json(labels.model_dump_json())
    assert again == labels and again.cells == labels.cells


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Merge(clusters=(0, 7)), "merge: there is no cluster 7; there are 0, 1, 2, 3"),
        (Merge(clusters=(1, 1)), "each cluster once"),
        (Drop(cluster=-1), "there is no cluster -1"),
        (Split(cluster=9, centroids=TWO), "split: there is no cluster 9"),
        (Rename(cluster=4, name="x"), "rename: there is no cluster 4"),
    ],
)
def test_what_cannot_be_edited_is_named(edit: Edit, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        edited(edit)


def test_names_are_one_each_and_a_cluster_stays() -> None:
    with pytest.raises(ValueError, match="another cluster is called 'x'"):
        edited(Rename(cluster=0, name="x"), Rename(cluster=1, name="x"))
    with pytest.raises(ValueError, match="only cluster"):
        edited(Merge(clusters=(0, 1, 2, 3)), Drop(cluster=0))


@pytest.mark.parametrize(
    ("edits", "level", "expected"),
    [
        ((), 4, [0, 1, 2, 3]),
        ((), 3, [0, 0, 2, 3]),
        ((), 2, [0, 0, 2, 2]),
        ((), 1, [0, 0, 0, 0]),
        ([Merge(clusters=(3, 0))], 2, [3, 1, 2, 3]),  # what is merged already is no join of the tree
        ([Drop(cluster=1)], 2, [0, NOWHERE, 2, 2]),
        ([Drop(cluster=1)], 1, [0, NOWHERE, 0, 0]),
    ],
)
def test_a_level_cuts_the_tree(edits: list[Edit], level: int, expected: list[int]) -> None:
    labels = edited(*edits)
    if edits and isinstance(edits[0], Merge):
        expected = [1, 1, 2, 1]
    assert labels.ids_at(level).tolist() == expected
    assert len(labels.clusters_at(level)) == level


def test_parts_of_a_split_are_joined_before_others() -> None:
    labels = edited(Rename(cluster=2, name="b"), Split(cluster=2, centroids=TWO), Rename(cluster=4, name="a"))
    assert labels.clusters_at(4) == (0, 1, 2, 3) and labels.names_at(4) == {2: "b, a"}
    dropped = labels.edited(Revision(of="models:/a/2", edits=(Drop(cluster=2),)))
    assert dropped.clusters_at(2) == (0, 3) and dropped.clusters_at(1) == (0,)


def test_a_level_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="expected 1 to 4 clusters, got 5"):
        edited().ids_at(5)
    with pytest.raises(ValueError, match="no tree"):
        edited(joins=()).ids_at(2)
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="share of the training rows"):
            Asked(outliers=share)


def test_a_suggested_name_is_of_the_rows_that_it_was_found_for() -> None:
    labels = LabelMap.plain(4).with_tree([(0, 3, 2.0), (0, 1, 1.0), (0, 2, 0.5)])
    labels = labels.with_suggested({0: "low price", 1: "high price", 2: "red", 3: "blue"})
    assert labels.suggested_at(3) == {1: "high price", 2: "red"}  # 0 and 3 are joined
    edits = (Merge(clusters=(0, 3)), Rename(cluster=1, name="dear"))
    changed = labels.edited(Revision(of="models:/a/1", edits=edits))
    assert changed.suggested_at() == {2: "red"} and changed.undone().suggested_at() == labels.suggested
