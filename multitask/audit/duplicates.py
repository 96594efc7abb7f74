"""Pictures that are nearly the same: found by their perceptual hashes, confirmed by their thumbnails.

A group has a representative, and every member of it is near to that one: what merely resembles a neighbour of a
neighbour stays outside, so that look-alikes do not grow into chains.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from multitask.audit.looks import Looks

# How alike two pictures must be by the longer side of the smaller one, in pixels: bits by which their hashes may
# differ, correlation of their thumbnails, largest difference of their mean colour.
# Large ones: measured on 1,417 photos of clothes, many of like things on one carpet, and 5,190 X-rays. Copies that
# were compressed again, made smaller, brighter or starker all pass, of those that lost 3% at their edges three of four.
# No two pictures of different things do: their highest correlation is 0.976 among the photos, 0.989 among the X-rays.
# Small pictures have few pixels to differ in. Of the 70,000 of Fashion-MNIST (28 pixels) 43 pairs pass, all of them one
# picture to the eye; shirts with another print correlate up to 0.9995. Copies of 60 x 80 pixels that were compressed
# again or made brighter correlate by 0.998 and differ in 4 bits.
_LIMITS = ((32, 6, 0.9996, 0.03), (128, 6, 0.998, 0.05), (1 << 30, 10, 0.99, 0.1))
# Pictures with less contrast are all alike, and are reported as blank instead.
MIN_CONTRAST = 0.02
# A hash is looked up by four chunks of bits.
_CHUNKS, _CHUNK_BITS = 4, 16
# Pairs of hashes and pairs of thumbnails compared at once, and pairs kept at most, which bounds memory.
_HASHES_AT_ONCE, _THUMBNAILS_AT_ONCE, _MOST_PAIRS = 1 << 21, 1 << 14, 1 << 22

Rows = NDArray[np.int64]


def near_duplicates(looks: Looks) -> Rows:
    """Return int64 (files,): images of one number are nearly the same picture; -1 for one like no other.

    Memory is bounded by `looks` and by what is found. Time is linear in practice (a million hashes: a minute), but
    grows with the square of the number of different pictures that share a hash.
    """
    groups = np.full(len(looks), -1)
    rows = np.flatnonzero((looks.reason == "") & (looks.contrast >= MIN_CONTRAST))
    if len(rows) < 2:
        return groups
    pictures = _Pictures(looks, rows)
    leader = _lead_equal_hashes(pictures)
    stars = _Stars(len(rows))
    for one, other in _candidates(pictures, np.flatnonzero(leader == np.arange(len(rows)))):
        near = pictures.alike(one, other)
        stars.add(one[near], other[near])
    found = _join(pictures, leader, stars.representatives())
    together = np.bincount(found, minlength=len(rows))[found] > 1
    groups[rows[together]] = np.unique(found[together], return_inverse=True)[1]
    return groups


def close_pairs(hashes: NDArray[np.uint64], bits: int) -> Iterator[tuple[Rows, Rows]]:
    """Yield all pairs (one, other) of distinct hashes that differ in at most `bits` bits, each pair once, in blocks.

    Of two such hashes at least one of four chunks differs in few bits: with 10 bits in at most 2 of chunks 1 to 3, or
    in at most 1 of the last (else 3 + 3 + 3 + 2 bits would differ). So each hash is compared with those in the buckets
    that are as near by one chunk: multi-index hashing, Norouzi et al. 2012,
    https://doi.org/10.1109/CVPR.2012.6248043.
    """
    radii = [(bits + 1) // _CHUNKS + (chunk < (bits + 1) % _CHUNKS) - 1 for chunk in range(_CHUNKS)]
    for chunk, radius in enumerate(radii):
        keys = _chunk(hashes, chunk)
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], hashes[order]
        bounds = np.searchsorted(keys, np.arange((1 << _CHUNK_BITS) + 1))
        for mask in _masks(radius):
            for left, right in _ranges(keys, bounds, mask):
                one, other = _near(values, left, right, bits)
                differing = values[one] ^ values[other]
                is_new = np.ones(len(one), bool)
                for earlier in range(chunk):
                    is_new &= np.bitwise_count(_chunk(differing, earlier)) > radii[earlier]
                yield order[one[is_new]], order[other[is_new]]


def _chunk(hashes: NDArray[np.uint64], chunk: int) -> Rows:
    return ((hashes >> np.uint64(chunk * _CHUNK_BITS)) & np.uint64((1 << _CHUNK_BITS) - 1)).astype(np.int64)


def _masks(radius: int) -> Iterator[int]:
    for size in range(radius + 1):
        for places in itertools.combinations(range(_CHUNK_BITS), size):
            yield sum(1 << place for place in places)


def _ranges(keys: Rows, bounds: Rows, mask: int) -> Iterator[tuple[Rows, Rows]]:
    """Yield blocks: positions (n,), and for each the range (2, n) of positions whose key differs from its by `mask`."""
    partner = keys ^ mask
    low, high = bounds[partner], bounds[partner + 1]
    if mask == 0:
        low = np.arange(1, len(keys) + 1)
    left = np.flatnonzero((partner >= keys) & (high > low))
    sizes = np.cumsum(high[left] - low[left])
    edges = np.searchsorted(sizes, np.arange(_HASHES_AT_ONCE, sizes[-1] if len(sizes) else 0, _HASHES_AT_ONCE))
    for block in np.split(left, np.unique(edges)):
        if len(block):
            yield block, np.stack([low[block], high[block]])


def _near(values: NDArray[np.uint64], left: Rows, right: Rows, bits: int) -> tuple[Rows, Rows]:
    """Compare each value with a range of others; return the positions of those that are near."""
    counts = right[1] - right[0]
    ends = np.cumsum(counts)
    others = np.arange(ends[-1]) + np.repeat(right[0] - ends + counts, counts)
    hits = np.flatnonzero(np.bitwise_count(np.repeat(values[left], counts) ^ values[others]) <= bits)
    return left[np.searchsorted(ends, hits, side="right")], others[hits]


class _Pictures:
    """Hashes and thumbnails of the images that are compared, and what is measured of each once."""

    def __init__(self, looks: Looks, rows: Rows) -> None:
        self.hashes = looks.perceptual_hash[rows]
        self._rows, self._pixels = rows, looks.thumbnail
        self._tier = np.searchsorted([limit[0] for limit in _LIMITS], looks.longest[rows])
        self._means, self._norms = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
        self._colours = np.empty((len(rows), 3), np.float32)
        for at in range(0, len(rows), _THUMBNAILS_AT_ONCE):
            block = slice(at, at + _THUMBNAILS_AT_ONCE)
            pixels = looks.thumbnail[rows[block]].astype(np.float32)
            self._means[block] = pixels.mean(axis=1)
            self._norms[block] = np.linalg.norm(pixels - self._means[block, None], axis=1) + 1e-6
            self._colours[block] = pixels.reshape(len(pixels), -1, 3).mean(axis=1) / 255

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def bits(self) -> int:
        """By how many bits hashes of these pictures may differ at most."""
        return _LIMITS[int(self._tier.max())][1]

    def alike(self, one: Rows, other: Rows) -> NDArray[np.bool_]:
        """Tell of each pair whether hashes, colour and structure are alike; the cheap questions first."""
        tier = np.minimum(self._tier[one], self._tier[other])
        _, bits, correlations, colours = (np.array(column)[tier] for column in zip(*_LIMITS, strict=True))
        near = np.bitwise_count(self.hashes[one] ^ self.hashes[other]) <= bits
        near &= np.abs(self._colours[one] - self._colours[other]).max(axis=1, initial=0) <= colours
        for block in np.array_split(np.flatnonzero(near), near.sum() // _THUMBNAILS_AT_ONCE + 1):
            first, second = self._centred(one[block]), self._centred(other[block])
            near[block] = np.einsum("pd,pd->p", first, second) >= correlations[block]
        return near

    def _centred(self, rows: Rows) -> NDArray[np.float32]:
        pixels = self._pixels[self._rows[rows]].astype(np.float32)
        pixels -= self._means[rows, None]
        return pixels / self._norms[rows, None]


def _lead_equal_hashes(pictures: _Pictures) -> Rows:
    """Return for each picture one of the same hash that it is alike to; itself for most.

    Round by round the first picture of each hash that is left leads those that are alike to it: a thousand copies cost
    a thousand comparisons, and three variants of one logo three rounds.
    """
    leader = np.arange(len(pictures))
    _, code, counts = np.unique(pictures.hashes, return_inverse=True, return_counts=True)
    left = np.flatnonzero(counts[code] > 1)
    left = left[np.argsort(code[left], kind="stable")]
    while len(left):
        is_first = np.diff(code[left], prepend=-1) != 0
        head = left[is_first][np.cumsum(is_first) - 1]
        alike = pictures.alike(head, left) | (head == left)
        leader[left[alike]] = head[alike]
        left = left[~alike]
    return leader


def _candidates(pictures: _Pictures, heads: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Yield blocks of pairs of leaders whose hashes are close."""
    heads = heads[np.argsort(pictures.hashes[heads], kind="stable")]
    values, first, counts = np.unique(pictures.hashes[heads], return_index=True, return_counts=True)
    for one, other in close_pairs(values, pictures.bits):
        # Several leaders may share a hash: each of the one with each of the other.
        repeats = counts[one] * counts[other]
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        width = np.repeat(counts[other], repeats)
        yield (
            heads[np.repeat(first[one], repeats) + within // width],
            heads[np.repeat(first[other], repeats) + within % width],
        )


class _Stars:
    """Pairs that are near, and the groups around a representative that follow from them."""

    def __init__(self, count: int) -> None:
        self._count, self._pairs = count, [np.empty((2, 0), np.int64)]

    def add(self, one: Rows, other: Rows) -> None:
        """Note pairs; when there are too many, keep only those of a picture and its representative so far."""
        self._pairs.append(np.stack([one, other]))
        if sum(pairs.shape[1] for pairs in self._pairs) > _MOST_PAIRS:
            chosen = self.representatives()
            members = np.flatnonzero(chosen != np.arange(self._count))
            self._pairs = [np.stack([members, chosen[members]])]

    def representatives(self) -> Rows:
        """Return each picture's representative: the one with the most near to it first, then those not yet taken."""
        pairs = np.concatenate(self._pairs, axis=1)
        ends = np.concatenate([pairs, pairs[::-1]], axis=1)
        ends = ends[:, np.argsort(ends[0], kind="stable")]
        degree = np.bincount(ends[0], minlength=self._count)
        start = np.cumsum(degree) - degree
        found = np.full(self._count, -1)
        some = np.flatnonzero(degree)
        for picture in some[np.argsort(-degree[some], kind="stable")].tolist():
            if found[picture] < 0:
                near = ends[1, start[picture] : start[picture] + degree[picture]]
                found[near[found[near] < 0]] = picture
                found[picture] = picture
        return np.where(found < 0, np.arange(self._count), found)


def _join(pictures: _Pictures, leader: Rows, representative: Rows) -> Rows:
    """Let a leader take those it leads into its representative's group, if all of them are near to that one too."""
    target = representative[leader]
    moved = np.flatnonzero(target != leader)
    far = moved[~pictures.alike(moved, target[moved])]
    stays = np.zeros(len(leader), bool)
    stays[leader[far]] = True
    return np.where(stays[leader], leader, target)
