"""The instance that a handler serves, under the name that this package knows it by."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..durably import Durably

    Engine = Durably
