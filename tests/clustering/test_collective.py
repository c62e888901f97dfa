import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from raydc.clustering import KMeansOptions
from raydc.clustering.collective import CollectiveClusters
from raydc.clustering.kmeans import init as kmeans_init
from raydc.clustering.kmeans import kernels, steps
from raydc.clustering.kmeans.accumulate import pass_of
from raydc.clustering.kmeans.iteration import Clustering, KMeansTask
from raydc.data.shard import DenseRows, Shard, partition, split


def blobs(rows: int = 600, dim: int = 5, clusters: int = 6, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim)) * 4
    return torch.tensor(centres[rng.integers(clusters, size=rows)] + spread * rng.normal(size=(rows, dim))).float()


def alone(x: torch.Tensor, seed: int = 0, group_rows: int | None = None) -> CollectiveClusters:
    return CollectiveClusters(Shard.of(x, group_rows), seed)


def everything(clusters: CollectiveClusters, z: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a worker gets from each call; rows of the worker under names that end in _."""
    plain = clusters.kmeans(z, 7, KMeansOptions(restarts=4, iterations=15))
    sphere = clusters.kmeans(z, 5, KMeansOptions(restarts=2, spherical=True))
    start = torch.cat((z.new_zeros(3, z.shape[1]), z.new_full((2, z.shape[1]), 50.0)))  # equal and far: empty clusters
    holes = clusters.kmeans(z, 5, centroids=start)
    near, far = clusters.neighbours(z, 4)
    near_in_cells, far_in_cells = clusters.neighbours(z, 4, probes=2)
    return {
        "centroids": plain.centroids,
        "counts": plain.counts,
        "labels_": plain.labels,
        "scalars": torch.tensor([plain.inertia, sphere.inertia, holes.inertia], dtype=torch.float64),
        "steps": torch.tensor([plain.iterations, holes.iterations, holes.refilled]),
        "sphere": sphere.centroids,
        "sphere_": sphere.labels,
        "holes": holes.centroids,
        "holes_": holes.labels,
        "near_": near,
        "far_": far,
        "near_in_cells_": near_in_cells,
        "far_in_cells_": far_in_cells,
        "another": clusters.kmeans(z, 5, KMeansOptions(restarts=1), draw=2).centroids,
        "sum": clusters.sum(z),
        "products": clusters.products(z, z[:, :2].exp()),
        "gathered": clusters.gather(z),
        "fetched_": clusters.fetch(z, near[:, 0]),
        "once_": clusters.label_on_one_worker(lambda: torch.arange(clusters.shard.total) % 7),
    }


def work(rank: int, workers: int, rendezvous: str, x: torch.Tensor, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=workers)
    groups = partition(split(len(x), 64), workers)
    if workers == 3:  # unequal shards, one of them empty
        groups = [groups[0], groups[1] + groups[2], ()]
    sizes = tuple(sum(map(len, g)) for g in groups)
    mine = x[sum(sizes[:rank]) :][: sizes[rank]].clone()
    shard = Shard(DenseRows(mine, mine.device), groups[rank], sizes)
    torch.save(everything(CollectiveClusters(shard, 3), mine), f"{out}.{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize("workers", [2, 3])
def test_same_bytes_on_any_number_of_workers(workers, tmp_path):
    x = blobs(531)
    x[100:110] = x[0]  # equal rows: ties
    expected = everything(alone(x, 3, 64), x)
    mp.start_processes(
        work, (workers, str(tmp_path / "rendezvous"), x, str(tmp_path / "out")), nprocs=workers, start_method="fork"
    )
    parts = [torch.load(f"{tmp_path}/out.{rank}", weights_only=True) for rank in range(workers)]
    for name, value in expected.items():
        if name.endswith("_"):
            assert torch.equal(torch.cat([part[name] for part in parts]), value), name
        else:
            assert all(torch.equal(part[name], value) for part in parts), name
    assert expected["steps"][2] > 0, "this start leaves clusters empty, so some had to be refilled"


def test_sum_is_exact_where_float_addition_is_not():
    values = torch.tensor([[1e8, 1e-8], [1.0, 3e-8], [-1e8, -1e-8]], dtype=torch.float64)
    assert alone(values).sum(values).tolist() == pytest.approx([1.0, 3e-8], rel=1e-9)
    x = torch.randn(1000, 3, dtype=torch.float64)
    torch.testing.assert_close(alone(x).sum(x), x.sum(0), rtol=1e-12, atol=1e-12)
    assert torch.equal(alone(x).sum(x), alone(x.flip(0)).sum(x.flip(0)))
    assert alone(x).sum(x[:, 0]).shape == ()
    assert torch.equal(alone(x).sum(torch.zeros(1000, 2)), torch.zeros(2, dtype=torch.float64))


def test_products_are_those_of_all_rows():
    x, y = torch.randn(1000, 3), torch.randn(1000, 2, dtype=torch.float64)
    torch.testing.assert_close(alone(x).products(x, 1e9 * y), 1e9 * x.double().T @ y, rtol=1e-12, atol=1e-3)
    with pytest.raises(ValueError, match="finite"):
        alone(x).products(x, y.index_fill(0, torch.tensor([3]), torch.nan))


def test_each_draw_of_kmeans_has_starts_of_its_own():
    x = blobs(400, clusters=20)
    drawn = [alone(x).kmeans(x, 6, KMeansOptions(restarts=1), draw=draw).labels for draw in (0, 0, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert all(adjusted_rand_score(drawn[0], other) < 1 for other in drawn[2:])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(bad):
    x = blobs(50)
    x[7, 2] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity in column\(s\) \[2\]"):
        alone(x).sum(x)
    with pytest.raises(ValueError, match=r"column\(s\) \[2\]"):
        alone(x).kmeans(x, 3)


def test_kmeans_refuses_what_it_cannot_do():
    x = blobs(50)
    with pytest.raises(ValueError, match="got 50 and 0"):
        alone(x).kmeans(x, 0)
    with pytest.raises(ValueError, match=r"expected starting centroids \(3, 5\), got \(2, 5\)"):
        alone(x).kmeans(x, 3, centroids=x[:2])
    with pytest.raises(ValueError, match="each of the shard's 50 rows, got 40"):
        alone(x).kmeans(x[:40], 3)
    with pytest.raises(ValueError, match="scale the rows"):
        alone(x).kmeans(x * 1e18, 3)
    with pytest.raises(ValueError, match="got 50 rows"):
        alone(x).neighbours(x, 50)


@pytest.mark.parametrize("clusters", [1, 6, 40])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_kmeans_agrees_with_scikit_learn_from_the_same_start(clusters, shift):
    x = blobs(800, dim=8, seed=clusters) + shift
    start = x[torch.randperm(800, generator=torch.Generator().manual_seed(1))[:clusters]]
    ours = alone(x).kmeans(x, clusters, KMeansOptions(tolerance=1e-6), centroids=start)
    theirs = KMeans(clusters, init=start.double().numpy(), n_init=1, tol=1e-6, max_iter=300).fit(x.double().numpy())
    torch.testing.assert_close(ours.centroids.double(), torch.tensor(theirs.cluster_centers_), rtol=1e-6, atol=1e-5)
    assert ours.labels.tolist() == theirs.labels_.tolist()
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-6)
    assert ours.iterations == theirs.n_iter_
    assert ours.found == clusters and ours.counts.tolist() == torch.bincount(ours.labels).tolist()


def test_restarts_find_the_blobs():
    x = blobs(3000, clusters=12, spread=0.3, seed=4)
    best = alone(x).kmeans(x, 12, KMeansOptions(restarts=8))
    theirs = KMeans(12, n_init=10, random_state=0).fit(x.numpy())
    assert adjusted_rand_score(best.labels, theirs.labels_) == 1
    assert best.inertia == pytest.approx(theirs.inertia_, rel=1e-5)
    again = alone(x).kmeans(x, 12, KMeansOptions(restarts=8))
    assert torch.equal(best.centroids, again.centroids)


def test_kmeans_by_hand():
    x = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
    result = alone(x).kmeans(x, 2, centroids=torch.tensor([[0.0], [2.0]]))
    assert result.centroids.tolist() == [[1.0], [12.0]]
    assert result.labels.tolist() == [0, 0, 1, 1] and result.counts.tolist() == [2, 2]
    assert result.inertia == 1 + 1 + 4 + 4
    tie = alone(x[:1] + 1).kmeans(x[:1] + 1, 2, KMeansOptions(iterations=1), centroids=torch.tensor([[0.0], [2.0]]))
    assert tie.labels.tolist() == [0], "the lowest index wins ties"


def test_fewer_distinct_rows_than_clusters_end_with_the_true_number():
    rows = blobs(10, seed=2)
    x = rows.repeat(20, 1)
    result = alone(x).kmeans(x, 16)
    assert result.found == 10 and result.inertia < 1e-9
    assert result.counts.tolist() == [20] * 10 + [0] * 6
    assert result.centroids.isfinite().all() and len(torch.unique(result.centroids, dim=0)) == 16
    assert torch.cdist(x, result.centroids).argmin(1).tolist() == result.labels.tolist()
    single = alone(torch.zeros(5, 3)).kmeans(torch.zeros(5, 3), 2)
    assert single.found == 1 and single.labels.tolist() == [0] * 5 and single.iterations <= 2


def test_empty_clusters_take_the_farthest_rows_as_in_scikit_learn():
    x = torch.tensor([[0.0], [1.0], [2.0], [30.0], [31.5]])
    start = torch.tensor([[0.0], [100.0], [200.0]])
    ours = alone(x).kmeans(x, 3, centroids=start)
    theirs = KMeans(3, init=start.numpy(), n_init=1).fit(x.numpy())
    assert sorted(ours.centroids.flatten().tolist()) == pytest.approx(sorted(theirs.cluster_centers_.flatten()))
    assert ours.refilled == 2 and ours.found == 3


def test_spherical_centroids_have_unit_length_and_zero_rows_move_nothing():
    x = blobs(400, dim=4, seed=7)
    with_zeros = torch.cat((x, torch.zeros(3, 4)))
    result = alone(with_zeros).kmeans(with_zeros, 4, KMeansOptions(spherical=True), centroids=x[:4])
    without = alone(x).kmeans(x * 17.0, 4, KMeansOptions(spherical=True), centroids=x[:4])
    torch.testing.assert_close(result.centroids.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(result.centroids, without.centroids)
    assert result.labels[-3:].tolist() == [0, 0, 0]
    cosine = torch.nn.functional.normalize(x) @ without.centroids.T
    assert without.labels.tolist() == cosine.argmax(1).tolist()
    assert without.inertia == pytest.approx(float((2 - 2 * cosine.amax(1)).sum()), rel=1e-4)


def test_many_clusters_start_better_on_all_rows():
    x = blobs(6000, dim=6, clusters=150, spread=0.2)
    sampled, parallel = (
        alone(x, group_rows=500).kmeans(x, 150, KMeansOptions(restarts=1, iterations=1, start=start))
        for start in ("k-means++", "k-means||")
    )
    assert parallel.inertia < 1.05 * sampled.inertia and parallel.found == 150
    few = blobs(9).repeat(30, 1)
    assert alone(few).kmeans(few, 12, KMeansOptions(restarts=2, start="k-means||")).found == 9


def test_weighted_rows_agree_with_scikit_learn():
    x, draw = blobs(700, dim=4), torch.Generator().manual_seed(0)
    weights = torch.rand(700, generator=draw) * 5
    weights[::9] = 0
    start = x[torch.randperm(700, generator=draw)[:6]]
    ours = alone(x).kmeans(x, 6, KMeansOptions(tolerance=0.0), centroids=start, weights=weights)
    theirs = KMeans(6, init=start.double().numpy(), n_init=1, tol=0).fit(x.double().numpy(), sample_weight=weights)
    torch.testing.assert_close(ours.centroids.double(), torch.tensor(theirs.cluster_centers_), rtol=1e-6, atol=1e-5)
    assert ours.labels.tolist() == theirs.labels_.tolist()
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-6)


def test_a_weight_is_as_many_equal_rows():
    x = blobs(120)
    weights = torch.arange(120) % 4
    repeated = x.repeat_interleave(weights, 0)
    one = alone(x).kmeans(x, 4, centroids=x[1:5], weights=weights)
    many = alone(repeated).kmeans(repeated, 4, centroids=x[1:5])
    torch.testing.assert_close(one.centroids, many.centroids, rtol=1e-5, atol=1e-5)
    assert one.inertia == pytest.approx(many.inertia, rel=1e-6)
    with pytest.raises(ValueError, match="expected weights of 0 or more"):
        alone(x).kmeans(x, 4, weights=weights - 1)
    with pytest.raises(ValueError, match="a weight above 0, got none"):
        alone(x).kmeans(x, 4, weights=weights * 0)


def test_balanced_clusters_have_nearly_equal_sizes():
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    y = torch.tensor([0] * 420 + [1] * 120 + [2] * 60)
    x = centres[y] + torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    free = alone(x, group_rows=200).kmeans(x, 3, KMeansOptions(restarts=2))
    even = alone(x, group_rows=200).kmeans(x, 3, KMeansOptions(restarts=2, balanced=5.0))
    assert free.counts.max() > 400 and even.counts.min() > 190 and even.counts.max() < 210
    distances = torch.cdist(x, even.centroids).square()
    assert torch.equal((even.offsets - distances).argmax(1), even.labels), "new rows are assigned as these were"
    assert even.inertia == pytest.approx(float(distances.gather(1, even.labels[:, None]).sum()), rel=1e-4)


def test_mini_batches_refill_clusters_that_an_epoch_left_empty():
    x = blobs(800, dim=3, clusters=5, spread=0.2)
    start = torch.cat((x[:3], x.new_full((2, 3), 100.0)))  # nothing falls to the last two
    result = alone(x, group_rows=100).kmeans(
        x, 5, KMeansOptions(batch_groups=2, iterations=40, tolerance=0.0), centroids=start
    )
    assert result.refilled >= 2 and result.found == 5 and (result.centroids.abs() < 50).all()


def test_half_precision_rows_are_clustered_in_full():
    x = blobs(300).bfloat16()
    half, full = alone(x).kmeans(x, 4), alone(x.float()).kmeans(x.float(), 4)
    assert torch.equal(half.centroids, full.centroids) and half.centroids.dtype == torch.float32


@pytest.mark.parametrize("shift", [0.0, 500.0])
def test_neighbours_are_exact(shift):
    x = blobs(400, dim=6) + shift
    near, squared = alone(x, group_rows=70).neighbours(x, 9)
    expected, index = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(x.double().numpy()).kneighbors()
    torch.testing.assert_close(squared.double(), torch.tensor(expected[:, :9] ** 2), rtol=1e-5, atol=1e-6)
    assert (near.numpy() == index[:, :9]).mean() > 0.999
    assert not (near == torch.arange(400)[:, None]).any()


def test_neighbours_break_ties_by_position():
    x = torch.ones(30, 4) * 0.3
    x[5] = 7.0
    near, squared = alone(x, group_rows=8).neighbours(x, 3)
    assert near[0].tolist() == [1, 2, 3] and near[1].tolist() == [0, 2, 3] and near[29].tolist() == [0, 1, 2]
    assert squared[0].tolist() == [0, 0, 0] and near[5].tolist() == [0, 1, 2]


def test_neighbours_without_the_compiled_loop_are_the_same():
    x = blobs(200, dim=3).double()
    x[50:60] = x[3]
    norms, answers = x.square().sum(1), []
    for function in (kernels.closest.py_func, lambda *a: steps.closest(*map(as_tensor, a))):
        for parts in (torch.arange(200).split(120), torch.arange(200).flip(0).split(70)):  # in any order
            far, near = torch.full((100, 5), torch.inf), torch.full((100, 5), -1)
            for part in parts:
                block = [x[40:140] @ x[part].T, norms[40:140], norms[part], part, torch.arange(40, 140)]
                function(*(t.numpy() for t in block), 1e-14, far.numpy(), near.numpy())
            answers.append((far, near))
    for far, near in answers[1:]:
        assert torch.equal(far, answers[0][0]) and torch.equal(near, answers[0][1])


def test_neighbours_in_cells_are_nearly_all_and_their_distances_exact():
    x = blobs(3000, dim=8, clusters=40)
    exact, squared = alone(x).neighbours(x, 10)
    near, far = alone(x).neighbours(x, 10, probes=8)
    recall = (near[:, :, None] == exact[:, None, :]).any(2).float().mean()
    assert recall > 0.95 and not (near == torch.arange(3000)[:, None]).any()
    assert torch.equal(far[near == exact], squared[near == exact]) and (far >= squared).all()
    everywhere = alone(x).neighbours(x, 10, probes=1000)
    assert torch.equal(everywhere[0], exact) and torch.equal(everywhere[1], squared)


def test_a_row_that_finds_too_few_neighbours_in_its_cells_is_compared_with_all():
    x = torch.cat([torch.ones(190, 3), 50 * torch.randn(10, 3, generator=torch.Generator().manual_seed(0))])
    near, far = alone(x).neighbours(x, 20, probes=1)
    assert far.isfinite().all() and near[0].tolist() == [*range(1, 21)] and near[100].tolist() == [*range(20)]


def test_sums_of_other_devices_are_what_the_compiled_loops_do():
    x, restarts, clusters = blobs(300, dim=4), 3, 7
    labels = torch.randint(0, clusters, (restarts, 300), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    fixed = steps.FixedPoint.of(x.abs().amax(0), 300)
    ours, theirs = (
        (torch.zeros(restarts, clusters, 4, dtype=torch.int64), torch.zeros(restarts, clusters, dtype=torch.int64))
        for _ in range(2)
    )
    kernels.add_integers(x.numpy(), labels.numpy(), fixed.scale.numpy(), *(t.numpy() for t in ours))
    steps.add_integers(fixed.integers(x), labels, *theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def as_tensor(value):
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def test_gather_and_fetch_keep_types():
    x = blobs(40)
    clusters = alone(x)
    assert torch.equal(clusters.gather(x[:, 0] > 0), x[:, 0] > 0)
    assert torch.equal(clusters.fetch(x[:, 0] > 0, torch.tensor([3, 1])), (x[:, 0] > 0)[[3, 1]])
    assert torch.equal(clusters.fetch(x, torch.tensor([39, 0])), x[[39, 0]])
    with pytest.raises(ValueError, match="expected positions from 0 to 39, got 2 to 40"):
        clusters.fetch(x, torch.tensor([2, 40]))


@pytest.mark.parametrize("weighted", [False, True])
def test_greedy_starts_are_those_of_the_definition(weighted, monkeypatch):
    x = blobs(500, 4)
    weights = torch.arange(500.0) % 4 if weighted else None
    monkeypatch.setattr(kmeans_init, "TILE", 64)
    got, draw = kmeans_init.plus_plus(x, 12, 3, 5, weights), torch.Generator().manual_seed(5)
    rand, mass = lambda *size: torch.rand(size, generator=draw, dtype=torch.float64), torch.ones(500).double()
    mass = mass if weights is None else weights.double()
    first, rest = rand(3), [rand(3, 4) for _ in range(11)]
    squared = (x.double()[:, None] - x.double()).square().sum(2)
    for r in range(3):
        chosen = [int((mass.cumsum(0) > first[r] * mass.sum()).int().argmax())]
        for uniform in rest:
            closest = squared[chosen].amin(0)
            total = (closest * mass).cumsum(0)
            trials = [int((total > u * total[-1]).int().argmax()) for u in uniform[r]]
            chosen.append(min(trials, key=lambda row: float((torch.minimum(closest, squared[row]) * mass).sum())))
        assert torch.equal(got[r], x[chosen].double())


def test_greedy_trials_are_fewer_where_they_would_take_too_long():
    assert kmeans_init.trials_of(10, 20, 10_000, 64) == 4 and kmeans_init.trials_of(2000, 20, 80_000, 64) == 9
    assert 1 < kmeans_init.trials_of(4000, 20, 160_000, 64) < 10 and kmeans_init.trials_of(10**5, 20, 10**6, 768) == 1
    x = torch.arange(40.0)[:, None] % 8
    with pytest.MonkeyPatch.context() as short:
        short.setattr(kmeans_init, "EFFORT", 0)
        starts = kmeans_init.plus_plus(x, 8, 5, 0)
    assert all(len(set(start.flatten().tolist())) == 8 for start in starts)


def test_only_kmeans_plus_plus_samples_more_rows_for_more_clusters():
    for start, many in (("k-means++", 1600), ("k-means||", 100)):
        now = Clustering(KMeansTask(n_clusters=40, start=start, sample=100), 2, 3000, 1)
        step = pass_of(now)
        step.add(torch.zeros(3000, 2), None, np.arange(3000))
        assert 0.7 * many < len(step.result()["sample"]) < 1.3 * many
