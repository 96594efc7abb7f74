"""Pictures that are nearly the same: found by their perceptual hashes, confirmed by their thumbnails."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from multitask.audit.inspection import THUMBNAIL, Look

# Bits by which hashes may differ, and how alike thumbnails must then be: correlation of their pixels, and the largest
# difference of their mean colour. Measured on 1,417 photos of clothes, many of like things on one carpet: copies that
# were compressed again, made smaller, brighter or starker all pass, of those that lost 3% at their edges 97%; no two
# photos of different things do (their highest correlation is 0.976).
MAX_BITS = 10
MIN_CORRELATION = 0.98
MAX_COLOUR = 0.1
# Pictures with less contrast are all alike, and are reported as blank instead.
MIN_CONTRAST = 0.02
# Hashes compared with all others of a band at once, which bounds memory.
_BLOCK = 512


def near_duplicates(looks: Sequence[Look]) -> NDArray[np.int64]:
    """Return int64 (images,): images of one number are nearly the same picture; -1 for one like no other."""
    groups = np.full(len(looks), -1)
    usable = np.array([not look.reason and look.contrast >= MIN_CONTRAST for look in looks], bool)
    rows = np.flatnonzero(usable)
    if len(rows) < 2:
        return groups
    hashes = np.array([looks[int(row)].perceptual_hash for row in rows], np.uint64)
    thumbnails = np.stack([np.frombuffer(looks[int(row)].thumbnail, np.uint8) for row in rows]).astype(np.float32)
    pairs = _alike(thumbnails, _close(hashes))
    graph = sparse.coo_array((np.ones(len(pairs), np.int8), pairs.T), shape=(len(rows), len(rows)))
    _, found = connected_components(graph, directed=False)
    counts = np.bincount(found)
    together = counts[found] > 1
    groups[rows[together]] = np.unique(found[together], return_inverse=True)[1]
    return groups


def _close(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return pairs (pairs, 2) whose hashes differ in at most MAX_BITS bits.

    Of MAX_BITS + 1 bands of bits at least one is then equal, so only hashes that share a band are compared; equal
    hashes are chained instead of compared all with all, so that a thousand copies cost a thousand pairs.
    """
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    pairs = [np.stack([order[same], order[same + 1]], axis=1)]
    values, first = np.unique(hashes, return_index=True)
    edges = np.linspace(0, 64, MAX_BITS + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band = (values >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        ranked = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[ranked], prepend=band[ranked[0]] + np.uint64(1)))
        sizes = np.diff(np.append(starts, len(ranked)))
        for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
            members = ranked[start : start + size]
            for at in range(0, size, _BLOCK):
                block = members[at : at + _BLOCK]
                near = np.bitwise_count(values[block, None] ^ values[None, members[at:]]) <= MAX_BITS
                one, other = np.nonzero(np.triu(near, 1))
                pairs.append(np.stack([first[block[one]], first[members[at:][other]]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _alike(thumbnails: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep pairs whose thumbnails are alike in structure and colour."""
    if not len(pairs):
        return pairs
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6
    colours = thumbnails.reshape(-1, THUMBNAIL * THUMBNAIL, 3).mean(axis=1) / 255
    one, other = pairs.T
    correlation = np.einsum("pd,pd->p", centred[one], centred[other])
    colour = np.abs(colours[one] - colours[other]).max(axis=1)
    return pairs[(correlation >= MIN_CORRELATION) & (colour <= MAX_COLOUR)]
