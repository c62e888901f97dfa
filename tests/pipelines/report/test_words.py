"""What commands say at their end, and what each measure means."""

import pytest

from raydc.clustering.metrics import external
from raydc.pipelines.report import words
from raydc.search.conclude import SHOWN

GOOD = {"clear": [*range(8)], "doubtful": [8, 9], "nowhere": 0.041, "bar": 0.75, "asked": "replicas", "rows": 500}
BAD = {"clear": [0], "doubtful": [1, 2], "nowhere": 0.0, "bar": 0.8, "asked": "neighbours", "rows": 1000, "noise": 0.6}
RUN = {"data": "rows/", "method": "dec", "n_clusters": 10, "model": "models:/digits/1"}


def test_a_verdict_in_a_sentence_and_its_rule():
    assert words.told(GOOD) == "10 clusters: 8 clear, 2 doubtful (8, 9); 4 % of the rows belong nowhere"
    assert words.told(BAD).startswith("3 clusters: 1 clear, 2 doubtful (1, 2); 0 % ")
    assert "(Jaccard)" in words.rule(GOOD) and "clusters of noise: 0.60" in words.rule(BAD)


@pytest.mark.parametrize(("share", "said"), [(0.0, "0 %"), (0.001, "under 1 %"), (0.006, "1 %"), (0.25, "25 %")])
def test_small_shares_are_not_none(share, said):
    assert words.percent(share) == said


def test_the_next_step_follows_from_the_verdict():
    assert "raydc assign --model models:/digits/1" in words.after_training(GOOD, refuses=False, **RUN)
    assert "raydc assign" not in words.after_training(GOOD, refuses=True, **RUN)
    assert words.after_training(BAD, refuses=False, **RUN).startswith("do not rely on these clusters yet")
    winner = {"structure": True, "winner": {"method": "dec"}, "verdict": GOOD}
    winner |= {"scales": {"at edge": False, "range": [4, 10]}}
    assert words.after_search(winner, "out/model", "out").startswith("raydc assign --model out/model")
    assert "raydc assign" not in words.after_search(winner | {"winner": {"method": "dcc"}}, "out/model", "out")
    assert "raydc assign" not in words.after_search(winner | {"verdict": BAD}, "out/model", "out")
    edge = words.after_search(winner | {"scales": {"at edge": True, "range": [4, 10]}}, "out/model", "out")
    assert "wider range of numbers of clusters than 4..10" in edge
    assert "no replica" in words.after_search(winner | {"verdict": None}, "out/model", "out")
    assert words.after_search(winner | {"structure": False}, "out/model", "out").startswith("there may be nothing")


def test_an_assignment_in_a_sentence():
    summary = {"rows": 1000, "clusters": [0, 1, 2], "sizes": [600, 0, 400], "dropped": 1, "far": 15, "out": "new"}
    summary |= {"nowhere": 0, "dropped_clusters": True, "asked": {"level": None, "outliers": None}, "unseen": {}}
    said = words.of_assignment(summary)
    assert said.startswith("1,000 rows in 2 clusters (no row went to 1); 2 % belong nowhere")
    assert said.endswith("; 1 bad row left out") and "unlike" not in words.after_assignment(summary)
    assert "unlike" in words.after_assignment(summary | {"far": 300})
    fewer = summary | {"clusters": [0, 2], "nowhere": 7, "asked": {"level": None, "outliers": 0.025}}
    assert "rows in 2 clusters; " in words.of_assignment(fewer)
    assert "7 rows labelled -1: what is of a dropped cluster or that lies farther out than all but 2.5 % of" in (
        words.of_assignment(fewer)
    )
    unseen = words.of_assignment(summary | {"unseen": {"colour": 1, "plan": 2000}})
    assert unseen.endswith("; categories without a place in the model: 1 row in colour, 2,000 rows in plan")


def test_every_measure_that_is_shown_has_a_gloss():
    shown = ["score", "modularity", "agreement", "balance", "largest share", "mean membership", "spread"]
    assert all(words.gloss(name) for name in [*shown, *external.external_scores([[1, 0], [0, 1]]), *SHOWN])
    assert words.gloss("ACC") == words.gloss("acc") and words.gloss("nothing known") == ""


def test_one_row_is_no_rows_and_no_cluster_is_said_to_be_dropped_where_none_was():
    summary = {
        "rows": 1,
        "clusters": [0],
        "sizes": [0],
        "dropped": 0,
        "far": 1,
        "nowhere": 1,
        "unseen": {},
        "dropped_clusters": False,
    }
    said = words.of_assignment(summary | {"asked": {"level": None, "outliers": 0.05}})
    assert "1 row labelled -1: what lies farther out than all but 5 %" in said and "dropped" not in said
    assert "told from 1 row)" in f"{words.rule(BAD | {'rows': 1})})"
