import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from raydc.clustering.centroid_service.ledger import merge
from raydc.clustering.centroid_service.service import CentroidService, Contribution, Refused, ServicePlan
from raydc.clustering.centroid_service.snapshots import Fenced, Snapshots
from raydc.clustering.centroid_service.worker import contribution, work
from raydc.clustering.collective import CollectiveClusters
from raydc.clustering.kmeans import steps
from raydc.clustering.kmeans.accumulate import labelled
from raydc.data.shard import DenseRows, Shard, split


def setup(rows=240, dim=3, clusters=4, group=30, seed=0, **settings):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(rows, dim)) + 3 * rng.integers(3, size=(rows, 1))).astype(np.float32)
    groups = split(rows, group)
    plan = ServicePlan(
        run="r", n_clusters=clusters, dim=dim, rows=tuple(map(len, groups)), **({"restarts": 1} | settings)
    )
    return plan, groups, lambda g: x[g.start : g.stop], x


def finish(service, plan, groups, read):
    while not service.state().done:
        work(service, plan, groups, read)
    return service


def test_agrees_with_scikit_learn_from_the_same_start(folder):
    plan, groups, read, x = setup(rows=900, clusters=6, group=100, tolerance=0.0)
    service = CentroidService(folder, plan)
    work(service, plan, groups, read)
    version, start, _ = service.centroids()
    assert version == 1
    finish(service, plan, groups, read)
    theirs = KMeans(6, init=start.astype(float), n_init=1, tol=0, max_iter=500).fit(x.astype(float))
    np.testing.assert_allclose(service.centroids()[1], theirs.cluster_centers_, rtol=1e-6, atol=1e-6)
    assert sorted(service.centroids()[2]) == sorted(np.bincount(theirs.labels_))
    history = service.status()["history"]
    assert len(history) == theirs.n_iter_
    assert history[-1]["inertia"] == pytest.approx(theirs.inertia_, rel=1e-6)


def test_restarts_side_by_side_keep_the_best(folder):
    plan, groups, read, _ = setup(rows=600, clusters=5, restarts=6)
    service = finish(CentroidService(folder / "all", plan), plan, groups, read)
    alone = []
    for r in range(6):
        one = CentroidService(folder / str(r), plan)
        work(one, plan, groups, read)
        own = {name: value[r : r + 1] if len(value.shape) and len(value) == 6 else value
               for name, value in one.clustering.arrays.items()}  # fmt: skip
        one.clustering = replace(one.clustering, active=(0,), arrays=own)
        alone.append(finish(one, plan, groups, read))
    inertia = [float(one.clustering.arrays["inertia"]) for one in alone]
    assert len(set(inertia)) > 1 and float(service.clustering.arrays["inertia"]) == min(inertia)
    best = alone[int(np.argmin(inertia))].centroids()[1]
    np.testing.assert_array_equal(service.centroids()[1], best)


def test_answers_to_pushes_that_must_not_count(folder):
    plan, groups, read, _ = setup()
    service = CentroidService(folder, plan)
    survey = contribution(plan, service.state(), groups, read)
    assert service.push(survey).answer == "accepted"
    assert service.push(survey).answer == "stale"
    first = contribution(plan, service.state(), groups[:2], read)
    assert service.push(first).answer == "accepted"
    before = {name: value.copy() for name, value in service.sums.items()}
    assert service.push(first).answer == "duplicate"
    assert service.push(contribution(plan, service.state(), groups[1:3], read)).answer == "overlap"
    assert service.push(contribution(plan, service.state(), groups[:1], read)).answer == "duplicate"
    assert all(np.array_equal(service.sums[name], value) for name, value in before.items())
    assert service.state().missing == tuple(range(2, len(groups))) and service.close(1) == 1
    assert service.state(centroids=False).clustering is None


def broken(part: Contribution, **arrays) -> Contribution:
    return Contribution(part.run, part.version, part.groups, part.arrays | arrays)


def test_bad_contributions_are_refused_and_change_nothing(folder):
    plan, groups, read, x = setup()
    service = CentroidService(folder, plan)
    survey = contribution(plan, service.state(), groups, read)
    for name, message in (("largest", "NaN or infinity"), ("sample", "NaN or infinity")):
        with pytest.raises(Refused, match=message):
            service.push(broken(survey, **{name: survey.arrays[name] * np.nan}))
    with pytest.raises(Refused, match="scale the rows"):
        service.push(broken(survey, largest=survey.arrays["largest"] + 1e20))
    service.push(survey)
    part = contribution(plan, service.state(), groups[:2], read)
    cases = {
        "expected shape": {"sums": part.arrays["sums"][:, :-1]},
        "of float64": {"sums": part.arrays["sums"].astype(float)},
        "expected counts of 60 rows": {"counts": part.arrays["counts"] + 1},
        "within reach": {"sums": part.arrays["sums"] + (1 << 61)},
        "far: expected finite": {"far": part.arrays["far"] * np.inf},
    }
    for message, arrays in cases.items():
        with pytest.raises(Refused, match=message):
            service.push(broken(part, **arrays))
    for bad, message in (
        (Contribution("other", 1, (0,), part.arrays), "expected a contribution to run r"),
        (Contribution("r", 2, (0,), part.arrays), "not open yet"),
        (Contribution("r", 1, (0, 0), part.arrays), "each once"),
        (Contribution("r", 1, (99,), part.arrays), "each once"),
        (Contribution("r", 1, (-1,), part.arrays), "each once"),
    ):
        with pytest.raises(Refused, match=message):
            service.push(bad)
    assert service.state().missing == tuple(range(len(groups))) and not service.sums
    service.push(part)
    with pytest.raises(Refused, match="came again with other sums"):
        service.push(broken(part, energy=part.arrays["energy"] + 1))
    x[5, 1] = np.inf
    with pytest.raises(ValueError, match="row 5: expected finite"):
        contribution(plan, CentroidService(folder / "new", plan).state(), groups, read)


def test_rows_that_are_not_those_of_the_survey_are_noticed(folder):
    plan, groups, read, _ = setup()
    service = CentroidService(folder, plan)
    work(service, plan, groups, read)
    part = contribution(plan, service.state(), groups, read)
    with pytest.raises(Refused, match="not the rows of the survey"):
        service.push(broken(part, check=part.arrays["check"] + 1))
    assert service.version == 1


def test_combination_leaves_no_trace(folder):
    plan, groups, read, _ = setup()
    service = CentroidService(folder, plan)
    work(service, plan, groups, read)
    state = service.state()
    parts = [contribution(plan, state, [group], read).arrays for group in groups]
    whole = contribution(plan, state, groups, read)
    for seed in range(5):
        random.Random(seed).shuffle(parts)
        tree = merge([merge(parts[:3]), merge([merge(parts[3:5]), merge(parts[5:])])])
        assert replace(whole, arrays=tree).digest == whole.digest


WAYS = [
    {},
    {"batch_groups": 3, "iterations": 12},
    {"spherical": True, "restarts": 2},
    {"start": "k-means||", "restarts": 2},
    {"weighted": True, "restarts": 2},
    {"weighted": True, "start": "k-means||", "batch_groups": 4, "iterations": 9},
    {"balanced": 20.0, "iterations": 15},
    {"balanced": 5.0, "weighted": True, "restarts": 2, "iterations": 20},
]


def weigh(read, plan):
    """Rows with weights that depend on their positions, some of them zero, where the plan asks for weights."""
    return (lambda g: (read(g), np.arange(g.start, g.stop, dtype=np.float32) % 7)) if plan.weighted else read


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_any_division_of_the_work_gives_the_same_bytes(folder, settings):
    plan, groups, read, _ = setup(**settings)
    read, answers = weigh(read, plan), set()
    for workers in (1, 2, 3, 4):
        service, dice = CentroidService(folder / str(workers), plan), random.Random(workers)
        while not service.done:
            state, parts = service.state(), []
            for worker in dice.sample(range(workers), workers):  # unequal shards
                mine = [g for g in groups[worker::workers] if g.id in state.missing]
                parts += [contribution(plan, state, mine, read)] if mine else []
            late = parts + dice.sample(parts, len(parts))  # every push twice, in another order
            assert all(service.push(part).answer in ("accepted", "duplicate", "stale") for part in late)
        arrays = service.clustering.arrays
        answers.add((service.version, *(a.numpy().tobytes() for _, a in sorted(arrays.items()))))
    assert len(answers) == 1


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_collectives_end_in_the_bytes_of_the_service(folder, settings):
    plan, groups, read, x = setup(**settings, seed=4)
    service = finish(CentroidService(folder, plan), plan, groups, weigh(read, plan))
    shard = Shard(DenseRows(torch.from_numpy(x), torch.device("cpu")), groups, (len(x),))
    weights = torch.arange(len(x)).float() % 7 if plan.weighted else None
    ours = CollectiveClusters(shard, plan.seed).kmeans(torch.from_numpy(x), plan.n_clusters, plan, weights=weights)
    _, centroids, counts = service.centroids()
    assert ours.centroids.numpy().tobytes() == centroids.tobytes() and ours.counts.tolist() == counts.tolist()
    labels = torch.cat([labelled(service.clustering, ours_x)[0] for ours_x in torch.from_numpy(x).split(30)])
    assert torch.equal(labels, ours.labels) and torch.bincount(labels, minlength=4).tolist() == counts.tolist()


def test_mini_batches_are_running_means(folder):
    plan, groups, read, x = setup(rows=4000, clusters=3, group=100, batch_groups=8, iterations=30, tolerance=0.0)
    x += 50 * np.round(x.mean(1, keepdims=True) / 3).clip(0, 2)  # far apart: no row ever changes its cluster
    service = finish(CentroidService(folder, plan), plan, groups, read)
    assert plan.drawn(len(groups), 3).sum() == 8 and (plan.drawn(len(groups), 3) != plan.drawn(len(groups), 4)).any()
    seen = np.concatenate([read(groups[g]) for v in range(1, 31) for g in np.flatnonzero(plan.drawn(len(groups), v))])
    labels = ((seen[:, None] - service.centroids()[1]) ** 2).sum(2).argmin(1)
    means = np.stack([seen[labels == k].mean(0, dtype=float) for k in range(3)])
    np.testing.assert_allclose(service.centroids()[1], means, rtol=1e-5)
    assert service.clustering.arrays["lifetime"].sum() == 30 * 8 * 100 and service.version == 32


def test_empty_clusters_are_refilled_and_fewer_distinct_rows_end_cleanly(folder):
    plan, groups, _, _ = setup(rows=120, clusters=9, group=30)
    rows = np.arange(15, dtype=np.float32).reshape(5, 3) ** 2
    x = np.tile(rows, (24, 1))
    service = finish(CentroidService(folder, plan), plan, groups, lambda g: x[g.start : g.stop])
    _, centroids, counts = service.centroids()
    assert (counts > 0).sum() == 5 and np.isfinite(centroids).all() and service.version < 10
    np.testing.assert_allclose(sorted(centroids[counts > 0][:, 0]), sorted(rows[:, 0]), rtol=1e-6)


class Death(BaseException):
    """The process is gone; what it had not committed is lost."""


class Fragile(CentroidService):
    """Dies at random at the places where it hurts."""

    dice: random.Random | None = None

    def reached(self, point: str) -> None:
        if self.dice is not None and self.dice.random() < 0.08:
            raise Death(point)

    def during(self) -> None:
        self.reached("save.during")


def simulate(folder, plan, groups, read, seed, computed) -> tuple[bytes, int]:
    """A run over a service that dies, with replies lost and pushes late, repeated and reordered; and its deaths."""
    dice = random.Random(seed)
    late, deaths, versions = [], 0, []

    def start():
        while True:
            try:
                service = Fragile(folder, plan, save_every=dice.choice([0, 1, 2]))
                service.dice = dice
                service.snapshots.during = service.during
                return service
            except Death:
                continue

    service = start()
    for _ in range(2000):
        if service.done:
            break
        try:
            state = service.state()
            versions.append(state.version)
            if state.missing and (not late or dice.random() < 0.7):
                chosen = tuple(sorted(dice.sample(range(len(groups)), dice.randint(1, 3))))
                if dice.random() < 0.6:
                    chosen = tuple(g for g in chosen if g in state.missing) or state.missing[:1]
                key = (state.version, chosen)
                if key not in computed:  # the same numbers whoever computes them: other tests show it
                    computed[key] = contribution(plan, state, [groups[g] for g in chosen], read)
                part = computed[key]
                late += [part] * dice.randint(0, 2)
            else:
                part = late.pop(dice.randrange(len(late)))
            service.push(part)
            if dice.random() < 0.1:
                raise Death("the reply was lost")  # and with it the process
        except Death:
            deaths += 1
            service = start()
    assert service.done and versions == sorted(versions), "versions never go back"
    return service.clustering.arrays["centroids"].numpy().tobytes(), deaths


def rehearse(folder, schedules):
    plan, groups, read, _ = setup(rows=60, clusters=3, group=10, iterations=3, tolerance=0.0)
    service = finish(CentroidService(folder / "whole", plan), plan, groups, read)
    expected, computed, deaths = service.clustering.arrays["centroids"].numpy().tobytes(), {}, 0
    for seed in range(schedules):
        got, died = simulate(folder / str(seed), plan, groups, read, seed, computed)
        assert got == expected, f"schedule {seed} counted a row twice or lost one"
        deaths += died
        shutil.rmtree(folder / str(seed))
    assert deaths > 2 * schedules
    return deaths


def test_no_schedule_of_deaths_repeats_and_delays_changes_a_bit(folder):
    rehearse(folder, 60)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_deaths_change_nothing(folder):
    assert rehearse(folder, 2000) >= 10_000


def test_a_zombie_cannot_commit(folder):
    plan, groups, read, _ = setup()
    zombie = CentroidService(folder, plan)
    work(zombie, plan, groups, read)
    successor = CentroidService(folder, plan)
    assert successor.version == 1 and successor.snapshots.incarnation == 2
    with pytest.raises(Fenced, match="incarnation 2 has taken over"):
        work(zombie, plan, groups, read)
    assert zombie.version == 1, "what is not committed is not visible"
    finish(successor, plan, groups, read)
    assert successor.done


def test_another_plan_in_the_same_folder_is_refused(folder):
    plan, groups, read, _ = setup()
    work(CentroidService(folder, plan), plan, groups, read)
    with pytest.raises(ValueError, match=r"another plan \(seed differ\)"):
        CentroidService(folder, plan.model_copy(update={"seed": 1}))


def test_damaged_snapshots_fall_back_and_never_start_fresh(folder):
    store = Snapshots(folder)
    for value in range(5):
        store.save({"a": np.full(3, value)}, {"value": value})
    assert len(list(folder.glob("snapshot-*.npz"))) == 3
    newest, middle, oldest = sorted(folder.glob("snapshot-*.npz"), reverse=True)
    payload = bytearray(newest.read_bytes())
    payload[len(payload) // 2] ^= 1
    newest.write_bytes(payload)
    arrays, meta = Snapshots(folder).newest()
    assert meta == {"value": 3} and arrays["a"].tolist() == [3, 3, 3]
    manifest = middle.with_suffix(".json")
    manifest.write_text(manifest.read_text().replace('"value": 3', '"value": 7'))
    assert Snapshots(folder).newest()[1] == {"value": 2}, "a manifest is not believed either"
    oldest.write_bytes(oldest.read_bytes()[:10])
    with pytest.raises(ValueError, match="no snapshot of this run can be read"):
        Snapshots(folder).newest()


GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> int:
    """Steele, Lea and Flood, OOPSLA 2014, the mixing of a state modulo 2^64, by Python's integers; halved."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state %= 1 << 64
        state = (state ^ (state >> shift)) * factor
    state %= 1 << 64
    return (state ^ (state >> 31)) >> 1


def test_checksums_of_positions_tell_a_row_counted_twice():
    rows = np.arange(1000)
    assert steps.checksum(rows, 3) == (steps.checksum(rows[:300], 3) + steps.checksum(rows[300:], 3)) % (1 << 63)
    assert steps.checksum(np.append(rows[1:], 1), 3) != steps.checksum(rows, 3)
    assert steps.hashed(np.array([0, 5]), 3).tolist() == [splitmix64(0 + 4 * GOLDEN), splitmix64(5 + 4 * GOLDEN)]
    spread = torch.from_numpy(steps.hashed(rows, 3) / 2**63)
    assert 0.45 < spread.mean() < 0.55 and len(spread.unique()) == 1000


def test_a_close_that_failed_is_tried_again_and_says_why(folder, monkeypatch):
    plan, groups, read, _ = setup()
    service = CentroidService(folder, plan)
    with monkeypatch.context() as full:
        full.setattr(service.snapshots, "save", lambda *parts: (_ for _ in ()).throw(OSError("no space left")))
        survey = contribution(plan, service.state(), groups, read)
        for call in (lambda: service.push(survey), service.state):
            with pytest.raises(OSError, match="no space left"):
                call()
        assert service.push(survey).answer == "duplicate" and service.missing == () and service.version == 0
    assert service.state().version == 1


def test_a_service_that_saves_its_last_push_closes_after_its_death(folder):
    plan, groups, read, _ = setup()

    class Dies(CentroidService):
        def close(self, version: int) -> int:
            if not self.missing:
                raise Death
            return version

    with pytest.raises(Death):
        work(Dies(folder, plan, save_every=1), plan, groups, read)
    again = CentroidService(folder, plan, save_every=1)
    assert again.version == 0 and again.state().version == 1


def test_what_kills_leave_is_collected_and_a_zombie_among_them_does_no_harm(folder):
    def fails():
        raise Death

    zombie = Snapshots(folder)
    for value in range(4):
        killed = Snapshots(folder)
        killed.save({"x": np.zeros(3)}, {"value": value})
        killed.during = fails
        with pytest.raises(Death):
            killed.save({"x": np.zeros(3)}, {"value": -1})
    zombie.incarnation, zombie.during = 2, lambda: Snapshots(folder).save({"x": np.ones(3)}, {"value": 5})
    with pytest.MonkeyPatch.context() as asleep:  # after it looked whether there is a successor
        asleep.setattr(zombie, "_claimed", lambda: 2)
        asleep.setattr(zombie, "serial", 8)
        zombie.save({"x": np.zeros(3)}, {"value": -1})
    arrays, manifests = ({path.stem for path in folder.glob(f"snapshot-*.{kind}")} for kind in ("npz", "json"))
    assert arrays <= manifests and len(arrays) == 3
    assert [meta["value"] for _, meta in Snapshots(folder).whole()] == [5, 3, 2]
