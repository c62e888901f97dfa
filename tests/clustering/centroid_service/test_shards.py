"""Centroids shared out among shards end in the bytes of one service, whatever is repeated, late, lost or killed."""

import itertools
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from raydc.clustering.centroid_service import shards
from raydc.clustering.centroid_service.ledger import PIECE
from raydc.clustering.centroid_service.service import CentroidService, Contribution, Refused, ServicePlan, serve
from raydc.clustering.centroid_service.shards import ClusterShard, Sharded
from raydc.clustering.centroid_service.snapshots import Fenced
from raydc.clustering.centroid_service.worker import contribution, work
from raydc.clustering.kmeans.accumulate import labelled
from tests.clustering.centroid_service.test_service import WAYS, Death, finish, setup, weigh


def ended(service, x) -> tuple:
    """All that a run comes to."""
    now, (version, centroids, counts) = service.state().clustering, service.centroids()
    labels = torch.cat([labelled(now, part)[0] for part in torch.from_numpy(x).split(30)])
    arrays = [now.arrays[name].numpy().tobytes() for name in ("centroids", "offsets", "lifetime", "inertia", "order")]
    history = str(service.status()["history"])
    return version, centroids.tobytes(), counts.tobytes(), labels.numpy().tobytes(), *arrays, history


EMPTY = {"clusters": 9, "empty": True}
"""Three of the starts are nobody's nearest: these clusters are refilled from others."""


@pytest.mark.parametrize("settings", [*WAYS, EMPTY, EMPTY | {"weighted": True, "batch_groups": 4}], ids=str)
def test_any_number_of_shards_ends_in_the_same_bytes(folder, settings):
    empty = settings.get("empty", False)
    plan, groups, read, x = setup(**{name: value for name, value in settings.items() if name != "empty"})
    answers, refilled = set(), set()
    for many, step in ((1, 8), (2, 8), (3, 3)):
        own = plan.model_copy(update={"shards": many})
        whole = serve(folder / str(many), own)
        assert isinstance(whole, Sharded if many > 1 else CentroidService)
        service = whole.service if isinstance(whole, Sharded) else whole
        if empty:
            starts = torch.from_numpy(x[:9].copy())
            starts[[1, 4, 8]] += 1e4
            service.clustering = replace(service.clustering, given=starts)
        while not whole.state(centroids=False).done:
            for at in range(0, len(groups), step):
                work(whole, own, groups[at : at + step], weigh(read, own))
        answers.add(ended(whole, x))
        refilled.add(whole.status()["refilled"])
        answers.add(ended(serve(folder / str(many), own), x))  # by another process, later
    assert len(answers) == 1 and (min(refilled) >= 3 or not empty)


def test_shards_are_as_many_as_their_size_asks_for():
    plan = ServicePlan(run="r", n_clusters=100_000, dim=768, rows=(10,), restarts=1)
    sizes = [8 * (part.stop - part.start) * 769 for part in plan.parts]
    assert len(sizes) == 3 and max(sizes) <= PIECE and [*itertools.accumulate(sizes)][-1] == 8 * 100_000 * 769
    assert [part.start for part in plan.parts[1:]] == [part.stop for part in plan.parts[:-1]]
    assert ServicePlan(run="r", n_clusters=1000, dim=512, rows=(10,), restarts=20).parts == [slice(0, 1000)]
    assert len(ServicePlan(run="r", n_clusters=3, dim=2, rows=(10,), shards=5).parts) == 3


def begun(path, shards=2, **settings):
    """A sharded run whose centroids are about to move for the second time."""
    plan, groups, read, x = setup(shards=shards, **settings)
    whole = serve(path, plan)
    for _ in range(2):
        work(whole, plan, groups, read)
    return whole, plan, groups, read, x


def sums(whole) -> list[bytes]:
    return [value.tobytes() for each in (whole.service, *whole.shards) for _, value in sorted(each.sums.items())]


def piece(whole: Contribution, clusters: slice) -> Contribution:
    """What a shard gets of it."""
    own = {name: whole.arrays[name][:, clusters] for name in ("sums", "counts")}
    return replace(whole, arrays=own | {"check": whole.arrays["check"]})


def test_answers_to_pushes_that_must_not_count(folder):
    whole, plan, groups, read, _ = begun(folder)
    first = contribution(plan, whole.state(), groups[:2], read)
    assert first.targets == (0, 1, 2) and whole.push(first).answer == "accepted"
    before = sums(whole)
    assert whole.push(first).answer == "duplicate"
    assert whole.push(contribution(plan, whole.state(), groups[1:3], read)).answer == "overlap"
    assert whole.push(replace(first, version=1)).answer == "stale"
    assert sums(whole) == before and whole.state().missing == tuple(range(2, len(groups)))
    (shard, _), fresh = whole.shards, ClusterShard(folder / "shard-1", plan, 1)
    again = Sharded(whole.service, [shard, fresh], plan)
    state = again.state()
    assert state.missing == tuple(range(len(groups)))
    assert state.targets == {group: (2,) if group < 2 else (0, 1, 2) for group in state.missing}
    work(again, plan, groups[:2], read)
    assert sums(again) == before, "only what was lost, where it was lost"


def test_bad_contributions_are_refused_and_change_nothing(folder):
    whole, plan, groups, read, _ = begun(folder)
    good = contribution(plan, whole.state(), groups[:2], read)
    part, shard = piece(good, plan.parts[0]), whole.shards[0]
    for message, arrays in {
        "expected shape": {"sums": part.arrays["sums"][:, :-1]},
        "of float64": {"sums": part.arrays["sums"].astype(float)},
        "expected counts of 60 rows": {"counts": part.arrays["counts"] + 61},
        "within reach": {"sums": part.arrays["sums"] + (1 << 61)},
        "expected arrays": {"energy": good.arrays["energy"]},
    }.items():
        with pytest.raises(Refused, match=message):
            shard.push(replace(part, arrays=part.arrays | arrays))
    for changes, message in (({"run": "other"}, "to run r"), ({"groups": (99,)}, "each once")):
        with pytest.raises(Refused, match=message):
            shard.push(replace(part, **changes))
    assert shard.push(replace(part, version=9)).answer == "overlap", "the worker must ask which version is open"
    assert not shard.sums and shard.missing == tuple(range(len(groups)))
    shard.push(part)
    with pytest.raises(Refused, match="came again with other sums"):
        shard.push(replace(part, arrays=part.arrays | {"check": part.arrays["check"] + 1}))


def test_rows_that_a_shard_did_not_count_are_noticed(folder):
    whole, plan, groups, read, _ = begun(folder)
    other = contribution(plan, whole.state(), groups, read)
    other.arrays["check"][0] += 1
    for shard, clusters in zip(whole.shards, plan.parts, strict=True):
        shard.push(piece(other, clusters))
    with pytest.raises(Refused, match="not the rows counted"):
        work(whole, plan, groups, read)
    assert whole.service.version == 2


def test_lost_between_the_steps_of_a_close_the_version_is_still_there(folder):
    """One shard has settled when the service dies, and the other has lost its sums."""
    whole, plan, groups, read, x = begun(folder)
    last = contribution(plan, whole.state(), groups, read)

    def die(point):
        if point == "save.before":
            raise Death(point)

    whole.service.reached = die
    with pytest.raises(Death):
        whole.push(last)
    for path in folder.glob("shard-1/snapshot-*-000000002.*"):
        path.unlink()  # this one did not come to commit
    again = serve(folder, plan)
    assert set(again.state().targets.values()) == {(0, 2)} and again.state().version == 2
    assert again.centroids()[1].tobytes() == whole.centroids()[1].tobytes()
    finish(again, plan, groups, read)
    expected = finish(CentroidService(folder / "alone", plan), plan, groups, read)
    assert ended(again, x) == ended(expected, x)


def test_a_zombie_can_neither_commit_nor_go_on(folder):
    zombie, plan, groups, read, _ = begun(folder)
    late = contribution(plan, zombie.state(), groups, read)
    successor = serve(folder, plan)
    with pytest.raises(Fenced, match="incarnation 2 has taken over"):
        zombie.push(late)
    assert zombie.service.version == 2, "what is not committed is not visible"
    work(successor, plan, groups, read)
    assert successor.state().version == 3
    with pytest.raises(Fenced, match="past version 2: another service leads them"):
        Sharded(zombie.service, successor.shards, plan).state()
    finish(successor, plan, groups, read)


def test_a_folder_of_another_number_of_shards_is_refused(folder):
    begun(folder)
    with pytest.raises(ValueError, match=r"another plan \(shards differ\)"):
        serve(folder, setup(shards=3)[0])


def test_a_damaged_snapshot_is_never_passed_over_in_silence(folder):
    whole, plan, groups, read, x = begun(folder)
    work(whole, plan, groups, read)
    assert whole.state().version == 3
    max(folder.glob("shard-1/snapshot-*.npz")).write_bytes(b"")
    with pytest.raises(ValueError, match="shard-1: the centroids of clusters 2 to 3 in version 3 are lost"):
        serve(folder, plan).state()
    max(folder.glob("snapshot-*.npz")).write_bytes(b"")
    again = serve(folder, plan)
    assert again.state().version == 2 and set(again.state().targets.values()) == {(0, 2)}
    expected = finish(CentroidService(folder / "alone", plan), plan, groups, read)
    assert ended(finish(again, plan, groups, read), x) == ended(expected, x)


class Mortal:
    """An actor whose process dies at random where it hurts, also after a reply, which is lost: the call is repeated."""

    def __init__(self, make, dice):
        self.make, self.dice, self.deaths = make, dice, 0
        self.born()

    def born(self):
        while True:
            try:
                self.process = self.make(self.reached)
                return
            except Death:
                self.deaths += 1

    def reached(self, point: str) -> None:
        if self.dice.random() < 0.03:
            raise Death(point)

    def __getattr__(self, name):
        def call(*arguments):
            while True:
                try:
                    answer = getattr(self.process, name)(*arguments)
                    self.reached("the reply is lost")
                    return answer
                except Death:
                    self.deaths += 1
                    self.born()

        return call


def fragile(kind):
    """The same, dying where `reached` says."""

    class Fragile(kind):
        def __init__(self, reached, *arguments, **options):
            self.reached = reached
            super().__init__(*arguments, **options)
            self.snapshots.during = lambda: reached("save.during")

    return Fragile


FragileService, FragileShard = fragile(CentroidService), fragile(ClusterShard)


def simulate(path, plan, groups, read, seed, computed) -> tuple[Sharded, int]:
    """A run whose service and shards die; pushes come late, again, in another order, and to some of them only."""
    dice = random.Random(seed)
    pieces = [
        Mortal(lambda reached, at=at: FragileShard(reached, path / f"shard-{at}", plan, at), random.Random(seed + at))
        for at in range(len(plan.parts))
    ]
    service = Mortal(
        lambda reached: FragileService(reached, path, plan, save_every=dice.choice([0, 0, 1, 2]), shards=pieces),
        random.Random(seed + 100),
    )
    whole, late, versions = Sharded(service, pieces, plan), list[Contribution](), list[int]()
    for _ in range(2000):
        state = whole.state()
        versions.append(state.version)
        if state.done:
            break
        if not late or dice.random() < 0.7:
            expected = np.flatnonzero(state.outline.expected()).tolist() if state.outline else range(len(groups))
            chosen = tuple(sorted(dice.sample(expected, dice.randint(1, 3))))
            if dice.random() < 0.6:
                chosen = tuple(g for g in chosen if g in state.missing) or state.missing[:1]
            key = (state.version, chosen)
            if key not in computed:  # the same numbers whoever computes them: other tests show it
                computed[key] = contribution(plan, state, [groups[g] for g in chosen], read)
            who = sorted({target for group in chosen for target in state.targets.get(group, (0,))})
            part = replace(computed[key], targets=tuple(who))
            some = tuple(sorted(dice.sample(part.targets, dice.randint(1, len(part.targets)))))
            fewer = replace(part, targets=some)  # its worker dies before it has pushed to all
            late += dice.sample([part, part, fewer, fewer], dice.randint(0, 2))
            part = dice.choice([part, part, fewer])
        else:
            part = late.pop(dice.randrange(len(late)))
        whole.push(part)
    assert state.done and versions == sorted(versions), "versions never go back"
    return whole, service.deaths + sum(shard.deaths for shard in pieces)


class InTurn:
    """Threads that wait for each other: so fates depend on the seed alone, and small problems take less time."""

    def __init__(self, threads):
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        pass


def rehearse(path, schedules, monkeypatch):
    monkeypatch.setattr(shards, "ThreadPoolExecutor", InTurn)
    deaths = 0
    for settings in ({"restarts": 2}, {"batch_groups": 4, "weighted": True}):
        plan, groups, read, x = setup(rows=60, clusters=4, group=10, iterations=3, tolerance=0.0, **settings)
        read = weigh(read, plan)
        expected = ended(finish(serve(path / "one", plan), plan, groups, read), x)
        for many in (2, 3):
            own, computed = plan.model_copy(update={"shards": many}), {}
            for seed in range(schedules):
                whole, died = simulate(path / str(seed), own, groups, read, 1000 * seed + many, computed)
                assert ended(whole, x) == expected, f"schedule {seed} counted a row twice or lost one"
                deaths += died
                shutil.rmtree(path / str(seed))
        shutil.rmtree(path / "one")
    assert deaths > 40 * schedules
    return deaths


def test_no_schedule_of_deaths_repeats_and_delays_changes_a_bit(folder, monkeypatch):
    rehearse(folder, 3, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_deaths_change_nothing(folder, monkeypatch):
    assert rehearse(folder, 150, monkeypatch) >= 10_000
