"""Work that others may do beforehand: processes on other machines, which fill what the caller then finds filled.

Looks at images, features, answered blocks and the checkpoints of folds lie on disk under keys that say what they depend
on. So the caller does what it always does, and has only left to do what was lost. Such a disk is shared by all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Workers(Protocol):
    """Whoever may do work beforehand."""

    def share(self, function: Callable[[list[Any]], Any], items: Sequence[Any], title: str, size: int) -> list[Any]:
        """Call a function with so many of the items at a time, wherever there is room, until all are done.

        Args:
            function: crosses processes; may be called twice with the same items, when a process was killed.
            items: what it is called with.
            title: of the work, for whoever waits.
            size: how many items at a time; the last time fewer.

        Returns:
            What the function returned, in the order of the items; nothing where nobody works beforehand.
        """


class Nobody:
    """Nobody works beforehand: the caller does everything."""

    def share(self, function: Callable[[list[Any]], Any], items: Sequence[Any], title: str, size: int) -> list[Any]:
        """Leave everything to the caller."""
        return []
