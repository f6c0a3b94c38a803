"""Images and video frames from wherever they lie: paths, bytes, data URLs, http(s).

Everything from outside is bounded: bytes, pixels (read from the header before anything is decoded), frames, seconds,
and hosts. Whatever is wrong with a source is a DataError that names it. What a model makes of a picture is decided
elsewhere.
"""

from mplug_owl.media.images import load_image
from mplug_owl.media.limits import Limits, Tally
from mplug_owl.media.source import TarMember
from mplug_owl.media.videos import frame_indices, load_video

__all__ = ["Limits", "Tally", "TarMember", "frame_indices", "load_image", "load_video"]
