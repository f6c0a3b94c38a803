"""The drawn world as a source of conversations; nothing is drawn before a picture is looked at.

What its rows hold is decided in world/sets.py.
"""

import numpy as np

from mplug_owl.data.conversation import Conversation
from mplug_owl.world.sets import RowSet, rows

SCHEME = "world:"


class DrawnSource:
    """Rows of the world by number. `name` is that of a set behind `world:`, such as "world:questions/shapes@easy"."""

    format = "world"

    def __init__(self, name: str) -> None:
        self.rows: RowSet = rows(name.removeprefix(SCHEME))
        self.name = f"{SCHEME}{self.rows.name}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Conversation:
        found = self.rows.row(row)
        return Conversation(f"{SCHEME}{found.id}", found.messages, found.kind, self.origin(row), found.places)

    def origin(self, row: int) -> str:
        return f"{self.name}:{row + 1}"

    @property
    def identity(self) -> str:
        return self.rows.identity

    @property
    def knows_places(self) -> bool:
        """Whether its pictures come with what is where in them."""
        return self.rows.set == "places"

    def shows_media(self) -> np.ndarray:
        return np.full(len(self), self.rows.shows_media)
