"""Pictures read anew whenever they are asked for, where what is computed of them does not fit the disk budget.

Stands where a store of features stands. Nothing is kept, so memory and disk do not grow with the images; every epoch
reads and decodes all of them, and they go through the frozen side in each training step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from multitask.data.archives import Archive
from multitask.errors import ArchiveError, ConfigError
from multitask.features.dataset import read_images
from multitask.network.preprocessing import preprocess_batch
from multitask.parallel import bounded_map
from multitask.progress import Advance
from multitask.spec import ImageSpec

_CHECK_BATCH = 64


class PictureStream:
    """Pictures by image digest; see `FeatureStore`, whose place it takes.

    Args:
        key: of the store that it stands for.
        images: digest to id.
        archive: where the bytes are.
        image: the image spec.

    Raises:
        ConfigError: the images lie where they can only be read one after the other.
    """

    def __init__(self, key: str, images: Mapping[str, str], archive: Archive, image: ImageSpec) -> None:
        if archive.reads_forward_only:
            raise ConfigError(
                "the features of these images do not fit the disk budget, and a compressed tar cannot be read in "
                "another order in every epoch",
                where="data.features_gb",
                fix="Raise it, or pack the images as zip or as tar without compression.",
            )
        self.name, self.shape = f"stream-{key}", (image.height, image.width, 3)
        self._images, self._archive, self._image = images, archive, image
        self._decode = tf.function(
            lambda files: preprocess_batch(files, image), input_signature=[tf.TensorSpec([None], tf.string)]
        )

    def __enter__(self) -> PictureStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hold nothing."""

    def __contains__(self, digest: str) -> bool:
        return digest in self._images

    def gather(self, digests: Sequence[str]) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
        """Return a function from row numbers (n,), which count as in `digests`, to uint8 (n, height, width, 3)."""
        names = np.array([self._images[digest] for digest in digests], object)

        def fetch(rows: NDArray[np.int64]) -> NDArray[Any]:
            wanted = names[rows]
            order = self._archive.in_order(wanted.tolist())
            files = np.empty(len(rows), object)
            files[order] = self._read(wanted[order])
            pictures, ok = self._decode(tf.constant(files, tf.string))
            if not tf.reduce_all(ok):
                broken = wanted[~ok.numpy()][0]
                raise ArchiveError("cannot be decoded any more", where=str(broken), fix="Has the file changed?")
            found: NDArray[Any] = pictures.numpy()
            return found

        return fetch

    def _read(self, names: NDArray[np.object_]) -> list[bytes]:
        readers = self._archive.readers
        return list(
            map(self._archive.__getitem__, names)
            if readers == 1
            else bounded_map(self._archive.__getitem__, names, readers)
        )

    def undecodable(self, advance: Advance) -> list[str]:
        """Decode every picture once; return the digests of those that cannot be."""
        digests = np.array(list(self._images), object)
        is_read = np.zeros(len(digests), bool)
        for rows, _ in read_images(list(self._images.values()), self._archive, self._image, _CHECK_BATCH):
            is_read[rows.numpy()] = True
            advance(len(rows))
        return digests[~is_read].tolist()
