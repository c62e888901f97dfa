"""Compiled inner loops of k-means on the CPU (numba): one thread, rows in their order, the same bits every time.

A row's label is the cluster k with the lowest `half[k] - x c[k]` in float64, added in the order of `vectors.dot`, and
the lowest such k. Few rows need float64 to know it: any product whose error is bounded tells which clusters can be the
lowest, and mostly one is left. So labels depend neither on how products are made nor on the processor.
"""

from typing import Any

import numpy as np
from numba import njit

from raydc.clustering.kmeans import simd as compiled
from raydc.clustering.kmeans.simd import LANES, ROWS

simd: Any = compiled

BLOCK = 8 * LANES


@njit(cache=True, nogil=True, error_model="numpy")
def label_directly(
    x: np.ndarray,
    panels: np.ndarray,
    bounds: np.ndarray,
    tops: np.ndarray,
    centroids: np.ndarray,
    half: np.ndarray,
    labels: np.ndarray,
    products: np.ndarray,
    sums: np.ndarray,
    counts: np.ndarray,
) -> None:  # pragma: no cover
    """Labels int32 [R, N] of rows x [N, D], by float32 products [16, 16 V P] that stay in the first-level cache.

    Centroids are [R K, D] float32 and half their squared lengths [R K] float64. `panels` [R, P, D, 16 V] has them with
    clusters along the lanes and zeros behind the last; for `bounds` and `tops` see `_label`. Each block of rows is
    added at once, while it is in the cache, to float64 sums [R, K, D] and counts [R, K], unless these are empty.
    """
    restarts, rows = labels.shape
    dim, wide = panels.shape[2:]
    padded, clusters = bounds.shape[2], len(half) // restarts
    lowest = np.empty(tops.shape[2], np.float32)
    own = np.empty(ROWS, np.int32)
    last = np.zeros((ROWS, dim), np.float32)
    whole = ROWS if wide == LANES else ROWS // 2
    for start in range(0, rows, whole):
        many = min(whole, rows - start)
        block, at = x, start * dim
        if many < whole:
            last[:many] = x[start:]
            block, at = last, 0
        size = _size(block, at, whole, dim)
        for r in range(restarts):
            for p in range(panels.shape[1]):
                panel = (r * panels.shape[1] + p) * dim * wide
                if wide == LANES:
                    simd.product1(block, at, panels, panel, dim, products, p * wide, padded)
                elif wide == 2 * LANES:
                    simd.product2(block, at, panels, panel, dim, products, p * wide, padded)
                else:
                    simd.product3(block, at, panels, panel, dim, products, p * wide, padded)
            unsure = _label_few(products, bounds, r, size, own) if padded == LANES else 0
            for i in range(many):
                if padded > LANES:
                    own[i], _ = _label(
                        products, i * padded, bounds, tops, r, size, lowest,
                        block, at + i * dim, centroids, half, clusters,
                    )  # fmt: skip
                elif unsure >> i & 1:
                    own[i] = _label_apart(
                        products, i * padded, bounds, tops, r, size, lowest,
                        block, at + i * dim, centroids, half, clusters,
                    )  # fmt: skip
                labels[r, start + i] = own[i]
            if counts.size:
                for i in range(many):
                    counts[r, own[i]] += 1
                    simd.add(block, at + i * dim, sums, (r * clusters + own[i]) * dim, dim)


@njit(forceinline=True, error_model="numpy")
def _label_few(products, bounds, r, size, own):  # type: ignore[no-untyped-def]  # pragma: no cover
    """What `_label` does for a block of rows where a vector has all clusters; bits of rows that float64 must decide."""
    low, near = simd.load(bounds, 3 * r * LANES), simd.load(bounds, (3 * r + 2) * LANES)
    far = simd.fma(near, simd.splat(size), simd.load(bounds, (3 * r + 1) * LANES))
    unsure = 0
    for i in range(ROWS):
        product = simd.load(products, i * LANES)
        cut = simd.splat(simd.smallest(simd.minus(far, product)))
        bits = simd.within(simd.minus(low, product), simd.fma(near, simd.splat(size), cut))
        own[i] = simd.first(bits)
        unsure |= (bits == 0 or bits & (bits - 1) != 0) << i
    return unsure


@njit(error_model="numpy")
def _label_apart(products, p, bounds, tops, r, size, lowest, x, i, centroids, half, clusters):  # type: ignore[no-untyped-def]  # pragma: no cover
    """`_label` where it is rare, so that it takes no registers from what surrounds it."""
    return _label(products, p, bounds, tops, r, size, lowest, x, i, centroids, half, clusters)[0]


@njit(cache=True, nogil=True, error_model="numpy")
def label_screened(
    x: np.ndarray,
    products: np.ndarray,
    bounds: np.ndarray,
    tops: np.ndarray,
    centroids: np.ndarray,
    half: np.ndarray,
    labels: np.ndarray,
    budget: int,
) -> bool:  # pragma: no cover
    """What `label_directly` does, from products [N, R 16 V P] in bfloat16 (their bits, uint16) that are there already.

    False, with labels unfinished, if more than `budget` products had to be made again.
    """
    restarts, rows = labels.shape
    dim, padded, clusters = x.shape[1], bounds.shape[2], len(half) // restarts
    lowest = np.empty(tops.shape[2], np.float32)
    for i in range(rows):
        size = _size(x, i * dim, 1, dim)
        for r in range(restarts):
            labels[r, i], tried = _label(
                products,
                (i * restarts + r) * padded,
                bounds,
                tops,
                r,
                size,
                lowest,
                x,
                i * dim,
                centroids,
                half,
                clusters,
            )
            budget -= tried
        if budget < 0:
            return False
    return True


@njit(forceinline=True, error_model="numpy")
def _label(products, p, bounds, tops, r, size, lowest, x, i, centroids, half, clusters):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The label of the row x[i:] from its products[p:], and how many of these float64 had to tell apart.

    A score is at least bounds[r, 0] - product - size * bounds[r, 2] and at most bounds[r, 1] - product + size *
    bounds[r, 2], where no row is longer than `size`. The lowest of the upper bounds is `cut`; clusters with a lower
    bound beyond it are out. A block of clusters is passed by where its lowest upper bounds are beyond it by more than
    bounds differ in that block: tops[r, 0] + size * tops[r, 1].
    """
    padded = bounds.shape[2]
    low, high, slack = 3 * r * padded, (3 * r + 1) * padded, (3 * r + 2) * padded
    gap, reach = 2 * r * len(lowest), (2 * r + 1) * len(lowest)
    none, wide = simd.splat(np.float32(np.inf)), simd.splat(size)
    best, at = none, 0
    for k in range(0, padded, BLOCK):
        block = none
        for j in range(k, min(k + BLOCK, padded), LANES):
            upper = simd.fma(simd.load(bounds, slack + j), wide, simd.load(bounds, high + j))
            block = simd.smaller(block, simd.minus(upper, simd.load(products, p + j)))
        simd.store(lowest, at, block)
        best = simd.smaller(best, block)
        at += LANES
    cut = simd.splat(simd.smallest(best))
    label, score, tried, at = -1, np.inf, 0, 0
    for k in range(0, padded, BLOCK):
        far = simd.fma(simd.load(tops, reach + at), wide, simd.load(tops, gap + at))
        if simd.within(simd.minus(simd.load(lowest, at), far), cut):
            for j in range(k, min(k + BLOCK, padded), LANES):
                near = simd.fma(simd.load(bounds, slack + j), wide, cut)
                bits = simd.within(simd.minus(simd.load(bounds, low + j), simd.load(products, p + j)), near)
                while bits:
                    cluster = j + simd.first(bits)
                    bits &= bits - 1
                    if label < 0:
                        label = cluster
                        continue
                    if tried == 0:
                        score, tried = _score(x, i, centroids, half, r * clusters + label), 1
                    other = _score(x, i, centroids, half, r * clusters + cluster)
                    tried += 1
                    if other < score:
                        label, score = cluster, other
        at += LANES
    return max(label, 0), tried


@njit(cache=True, nogil=True, error_model="numpy")
def _score(x, i, centroids, half, k):  # type: ignore[no-untyped-def]  # pragma: no cover
    return half[k] - simd.dot(x, i, centroids, k * x.shape[1], x.shape[1])


@njit(forceinline=True, error_model="numpy")
def _size(x, i, rows, dim):  # type: ignore[no-untyped-def]  # pragma: no cover
    """A float32 that none of these rows from x[i:] on is longer than, whatever is rounded or too small for float32."""
    none = simd.splat(np.float32(0))
    most, rest, row = none, np.float32(0), i // dim
    for r in range(rows):
        at, own, d = i + r * dim, none, 0
        while d + LANES <= dim:
            own = simd.fma(simd.load(x, at + d), simd.load(x, at + d), own)
            d += LANES
        most = simd.larger(most, own)
        left = np.float32(0)
        while d < dim:
            left += x[row + r, d] * x[row + r, d]
            d += 1
        rest = max(rest, left)
    length = np.sqrt(simd.total(most) + rest)
    return np.float32(1.01) * length + np.float32(1e-18) * np.sqrt(np.float32(dim))


@njit(cache=True, nogil=True, error_model="numpy")
def distances(
    x: np.ndarray,
    squares: np.ndarray,
    centroids: np.ndarray,
    half: np.ndarray,
    apart: float,
    labels: np.ndarray,
    out: np.ndarray,
) -> None:  # pragma: no cover
    """Squared distance of each row of squared length `squares` to its own cluster: float64 [R, N].

    It is |x|^2 + 2 (half - x c), and `apart` where half leaves out the centroids' lengths. What is left of a row that
    is its own centroid is rounding.
    """
    clusters = len(half) // len(labels)
    for r in range(len(labels)):
        for i in range(len(x)):
            score = _score(x, i * x.shape[1], centroids, half, r * clusters + labels[r, i])
            distance = 2 * score + squares[i] + apart
            out[r, i] = distance if distance >= 1e-12 * squares[i] else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def around(z: np.ndarray, origin: np.ndarray, x: np.ndarray, squares: np.ndarray) -> None:  # pragma: no cover
    """Rows z [N, D] less origin [D] into x [N, D], and their squared lengths float64 [N]."""
    dim = len(origin)
    whole = dim // LANES * LANES
    for i in range(len(z)):
        for d in range(0, whole, LANES):
            simd.store(x, i * dim + d, simd.minus(simd.load(z, i * dim + d), simd.load(origin, d)))
        for d in range(whole, dim):
            x[i, d] = z[i, d] - origin[d]
        squares[i] = simd.dot(x, i * dim, x, i * dim, dim)


@njit(cache=True, nogil=True, error_model="numpy")
def squares(x: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover
    """Squared lengths float64 [N] of rows x [N, D] float32."""
    for i in range(len(x)):
        out[i] = simd.dot(x, i * x.shape[1], x, i * x.shape[1], x.shape[1])


@njit(cache=True, nogil=True, error_model="numpy")
def add_integers(
    x: np.ndarray, labels: np.ndarray, scale: np.ndarray, sums: np.ndarray, counts: np.ndarray
) -> None:  # pragma: no cover
    """Add rows x [N, D] float32 times scale [D] to int64 sums [R, K, D], and to counts [R, K], by labels [R, N]."""
    for r in range(len(labels)):
        for i in range(len(x)):
            k = labels[r, i]
            counts[r, k] += 1
            row, total = x[i], sums[r, k]
            for d in range(len(row)):
                total[d] += np.int64(row[d] * scale[d])


@njit(cache=True, nogil=True, error_model="numpy")
def add_floats(x: np.ndarray, labels: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> None:  # pragma: no cover
    """Add rows x [N, D] float32 to float64 sums [R, K, D], and to counts [R, K], by labels [R, N]."""
    dim, clusters = x.shape[1], counts.shape[1]
    for r in range(len(labels)):
        for i in range(len(x)):
            k = labels[r, i]
            counts[r, k] += 1
            simd.add(x, i * dim, sums, (r * clusters + k) * dim, dim)


@njit(cache=True, nogil=True, error_model="numpy")
def add_as_integers(partial: np.ndarray, scale: np.ndarray, sums: np.ndarray) -> None:  # pragma: no cover
    """Add float64 sums [R, K, D] times scale [D] to int64 sums."""
    for r in range(sums.shape[0]):
        for k in range(sums.shape[1]):
            for d in range(sums.shape[2]):
                sums[r, k, d] += np.int64(partial[r, k, d] * scale[d])


@njit(cache=True, nogil=True, error_model="numpy")
def closest(
    products: np.ndarray,
    norms: np.ndarray,
    others: np.ndarray,
    positions: np.ndarray,
    own: np.ndarray,
    noise: float,
    far: np.ndarray,
    near: np.ndarray,
) -> None:  # pragma: no cover
    """Keep the k nearest of each row: far [N, k] squared distances (float32), ascending, and near [N, k] positions.

    `products` [N, M] float64 are those with the rows at `positions` [M], which were not seen before; of equal distances
    the lower position comes first. `norms` [N] and `others` [M] are their squared lengths, and `own` [N] the positions
    of the rows themselves, which are no neighbours of their own. What is left of a distance below `noise` times its
    terms is rounding, and counts as zero.
    """
    last = far.shape[1] - 1
    for i in range(products.shape[0]):
        worst = far[i, last]
        for j in range(products.shape[1]):
            size = norms[i] + others[j]
            exact = size - 2 * products[i, j]
            squared = np.float32(exact if exact > noise * size else 0.0)
            place = positions[j]
            if squared > worst or place == own[i] or (squared == worst and place > near[i, last]):
                continue
            at = last
            while at > 0 and (squared < far[i, at - 1] or (squared == far[i, at - 1] and place < near[i, at - 1])):
                far[i, at], near[i, at] = far[i, at - 1], near[i, at - 1]
                at -= 1
            far[i, at], near[i, at] = squared, place
            worst = far[i, last]
