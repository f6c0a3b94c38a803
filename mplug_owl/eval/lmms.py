"""What lmms-eval asks of a plug-in: a manifest that names the class which answers for owls.

It is found by the entry point `lmms_eval.models`; lmms-eval is no dependency and is imported only when it calls.
"""

from typing import Any

NAME = "mplug_owl"
CLASS = "mplug_owl.eval.lmms_model.MplugOwl"


def manifest() -> Any:
    """The `ModelManifest` of `lmms-eval --model mplug_owl`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=NAME, chat_class_path=CLASS, aliases=("owl",))
