"""What a record of any format becomes: one conversation with a name and a place it came from.

Its media are named by their source and stay unopened. How it is written for a model is decided in encode.py.
"""

from dataclasses import dataclass
from typing import Literal

from mplug_owl.media import TarMember
from mplug_owl.messages import Message
from mplug_owl.world.scene import Place

__all__ = ["Conversation", "Kind", "TarMember"]

Kind = Literal["chat", "caption"]


@dataclass(frozen=True)
class Conversation:
    id: str
    messages: tuple[Message, ...]
    kind: Kind = "chat"
    """A caption is a user message of one image and an assistant message of its caption; it is written without roles:
    image, caption, end token.
    """
    origin: str = ""
    """`file:row`, rows counted from 1."""
    places: tuple[Place, ...] = ()
    """What is where in the picture, where the source knows."""
