"""What a forked child must not keep.

A lock of ``flock`` and a bound socket belong to the open file, and a fork shares it: both would
outlive the process that made them for as long as any of its children lives. A new program closes
them by itself; a fork without one (``multiprocessing``, ``ProcessPoolExecutor``) does not.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """Something that holds a descriptor."""

    def close_in_child(self) -> None:
        """Close the descriptor in a forked child, and leave everything else to the parent."""
        ...


_holders: weakref.WeakSet[Inherited] = weakref.WeakSet()


def close_in_children(holder: Inherited) -> None:
    """Have ``holder.close_in_child()`` called in every child that this process forks."""
    _holders.add(holder)


def _close_all() -> None:
    for holder in list(_holders):
        holder.close_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)
