"""duplicates: what is one picture is found at any size, what only looks alike is not."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from multitask.audit import duplicates as room
from multitask.audit.duplicates import close_pairs, near_duplicates
from multitask.audit.inspection import look_at
from multitask.audit.looks import THUMBNAIL_BYTES, Looks
from multitask.demo.probe import encode

LIMIT = 64_000_000


def groups_of(files: list[bytes]) -> list[int]:
    return near_duplicates(Looks.of([look_at(data, LIMIT) for data in files])).tolist()


def logo(colour: str, size: int = 200) -> Image.Image:
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((0.1 * size, 0.2 * size, 0.6 * size, 0.9 * size), fill=colour)
    draw.rectangle((0.55 * size, 0.1 * size, 0.85 * size, 0.5 * size), fill=colour)
    return picture


def many(hashes: np.ndarray, thumbnails: np.ndarray, pixels: int = 400) -> Looks:
    """Looks of files that were never written."""
    count = len(hashes)
    text, side = np.full(count, "", object), np.full(count, pixels, np.int32)
    half = np.full(count, 0.5, np.float32)
    turned = np.ones(count, np.int8)
    return Looks(text, text, text, side, side, turned, half, half, half, hashes, thumbnails)


def random_looks(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 1 << 64, count, np.uint64)
    return hashes, random.integers(0, 256, (count, THUMBNAIL_BYTES), np.uint8)


def flip(hashes: np.ndarray, bits: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Change so many bits of each hash, at random places."""
    places = np.argsort(random.random((len(hashes), 64)), axis=1)
    chosen = np.arange(64) < bits[:, None]
    return hashes ^ np.where(chosen, np.uint64(1) << places.astype(np.uint64), np.uint64(0)).sum(
        axis=1, dtype=np.uint64
    )


def test_three_colour_variants_of_one_logo_are_three_pictures() -> None:
    colours = ("navy", "crimson", "darkgreen")
    files = [encode(logo(colour), "PNG") for colour in colours] + [encode(logo(c), "JPEG", quality=90) for c in colours]
    found = groups_of(files)
    assert found[:3] == found[3:]
    assert len(set(found)) == 3
    assert min(found) >= 0


def test_interleaved_copies_of_two_pictures_with_one_hash_are_two_groups() -> None:
    one, other = look_at(encode(logo("navy"), "PNG"), LIMIT), look_at(encode(logo("crimson"), "PNG"), LIMIT)
    assert bin(one.perceptual_hash ^ other.perceptual_hash).count("1") <= 2
    hashes = np.full(1000, one.perceptual_hash, np.uint64)
    thumbnails = np.stack([np.frombuffer(look.thumbnail, np.uint8) for look in (one, other)] * 500)
    assert near_duplicates(many(hashes, thumbnails)).tolist() == [0, 1] * 500


def test_a_chain_of_small_changes_is_not_one_picture() -> None:
    random = np.random.default_rng(0)
    ends = random.integers(0, 256, (2, THUMBNAIL_BYTES)).astype(float)
    steps = [np.cos(angle) * ends[0] + np.sin(angle) * ends[1] for angle in np.linspace(0, np.pi / 2, 40)]
    thumbnails = np.stack(steps)
    thumbnails = 127 + 60 * (thumbnails - thumbnails.mean(axis=1, keepdims=True)) / thumbnails.std(axis=1)[:, None]
    found = near_duplicates(many(np.full(40, 7, np.uint64), thumbnails.clip(0, 255).astype(np.uint8)))
    assert found[0] != found[-1]
    assert np.bincount(found[found >= 0]).max() < 15
    hashes = np.cumsum(1 << np.arange(40), dtype=np.uint64)
    same = np.repeat(thumbnails[:1].clip(0, 255).astype(np.uint8), 40, axis=0)
    for number in range(len(hashes)):
        group = near_duplicates(many(hashes, same))
        members = hashes[group == group[number]]
        nearest = np.bitwise_count(members[:, None] ^ members).max(axis=0).min()
        assert nearest <= 10, "some member is near to all the others"


@pytest.mark.parametrize("bits", [0, 2, 6, 10])
def test_close_hashes_are_those_that_comparing_all_with_all_finds(bits: int) -> None:
    random = np.random.default_rng(bits)
    base = random.integers(0, 1 << 64, 300, np.uint64)
    hashes = np.unique(np.concatenate([base, *(flip(base, np.full(300, n), random) for n in (1, 3, bits, bits + 1))]))
    expected = np.argwhere(np.triu(np.bitwise_count(hashes[:, None] ^ hashes) <= bits, 1))
    found = np.concatenate([np.sort(np.stack(pair, axis=1), axis=1) for pair in close_pairs(hashes, bits)])
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))


def test_planted_pairs_among_many_hashes_are_all_found_in_linear_time() -> None:
    count, pairs = 60_000, 200
    hashes, thumbnails = random_looks(count)
    random = np.random.default_rng(1)
    hashes[pairs : 2 * pairs] = flip(hashes[:pairs], random.integers(0, 11, pairs), random)
    thumbnails[pairs : 2 * pairs] = thumbnails[:pairs]
    started = time.process_time()
    found = near_duplicates(many(hashes, thumbnails))
    # 3 seconds; comparing all with all within bands of six bits took minutes.
    assert time.process_time() - started < 30
    assert found[:pairs].tolist() == found[pairs : 2 * pairs].tolist()
    assert (found >= 0).sum() == 2 * pairs


def test_many_near_pairs_are_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    hashes, thumbnails = random_looks(20)
    hashes = flip(np.repeat(hashes, 30), random.integers(0, 4, 600), random)
    looks = many(hashes, np.repeat(thumbnails, 30, axis=0))
    expected = near_duplicates(looks)
    monkeypatch.setattr(room, "_MOST_PAIRS", 50)
    monkeypatch.setattr(room, "_HASHES_AT_ONCE", 100)
    assert near_duplicates(looks).tolist() == expected.tolist() == np.repeat(np.arange(20), 30).tolist()


def shirt(mark: tuple[int, int], grey: int = 200) -> Image.Image:
    """A shirt of 28 pixels on black with a print of its own, as in Fashion-MNIST."""
    picture = Image.new("L", (28, 28))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((8, 2, 19, 26), fill=grey)
    draw.polygon(((8, 2), (2, 10), (5, 12), (8, 8)), fill=grey - 20)
    draw.polygon(((19, 2), (25, 10), (22, 12), (19, 8)), fill=grey - 20)
    draw.rectangle((*mark, mark[0] + 2, mark[1] + 2), fill=20)
    return picture


def test_small_look_alikes_are_not_one_picture_but_copies_are() -> None:
    shirts = [shirt((x, y)) for x in (10, 13, 16) for y in (6, 10, 14, 18)]
    assert groups_of([encode(picture, "PNG") for picture in shirts]) == [-1] * 12
    copies = [encode(picture, "PNG") for picture in shirts]
    copies += [encode(picture.point(lambda value: value + 2 if value else 0), "PNG") for picture in shirts]
    assert groups_of(copies) == [*range(12), *range(12)]
