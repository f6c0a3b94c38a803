"""The form of requests and replies, and what is wrong with a request that does not have it, in a sentence.

Field names are those of OpenAI's chat completions; where a field would ask for something no owl does, it is refused
and not ignored. What a request means for a model is decided elsewhere.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from mplug_owl.errors import did_you_mean
from mplug_owl.messages import ImagePart, Message, Part, TextPart, VideoPart
from mplug_owl.serve.forms import REPLIES
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.replies import Refusal

ADDRESSES = ("data:", "http://", "https://")
MOST_STOPS = 4
LONGEST_STOP = 256  # letters; every piece of an answer is compared with it
SHOWN = 60  # letters of a wrong value that a sentence repeats


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Address(Form):
    url: str
    """A data URL; an http(s) address where the server fetches these."""
    detail: Any = None
    """Ignored: a model sees every picture at the one resolution it was trained at."""


class TextOf(Form):
    type: Literal["text"]
    text: str


class ImageOf(Form):
    type: Literal["image_url"]
    image_url: Address


class VideoOf(Form):
    type: Literal["video_url"]
    video_url: Address
    num_frames: Annotated[int, Field(ge=1)] | None = None
    """Frames to sample; the model's own number unless given."""


def _kind_of_part(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, Mapping) else getattr(part, "type", None)
    return f"<{kind}>" if isinstance(kind, str) else None


def _text_or_list(value: Any) -> str:
    return "<list>" if isinstance(value, list | tuple) else "<text>"


# The tags stand in brackets so that they can be told from the names of fields in the place of an error.
PartOf = Annotated[
    Annotated[TextOf, Tag("<text>")] | Annotated[ImageOf, Tag("<image_url>")] | Annotated[VideoOf, Tag("<video_url>")],
    Discriminator(_kind_of_part),
]
Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[PartOf], Tag("<list>")], Discriminator(_text_or_list)
]
Stops = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[str], Field(max_length=MOST_STOPS), Tag("<list>")],
    Discriminator(_text_or_list),
]


class MessageOf(Form):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    """A text, or parts; an earlier answer may be null."""
    name: str | None = None
    """Ignored."""
    # What clients send back of an answer they were given; empty, or refused.
    refusal: Any = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None
    tool_calls: Any = None


class StreamOptions(Form):
    include_usage: bool | None = None
    include_obfuscation: Any = None
    """Ignored."""


class ChatRequest(Form):
    """A request for answers to a conversation."""

    model: str | None = None
    """A name of /v1/models; the first of them unless given."""
    messages: Annotated[list[MessageOf], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of the answer, at most; so does `max_completion_tokens`."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    """Answers; each draws with a seed of its own, `seed` + its index."""
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    """0, which is the default, is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """0 or -1 is everything."""
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = None
    stop: Stops | None = None
    """Texts that end the answer and are not part of it; at most four."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    # Harmless, and ignored.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    parallel_tool_calls: Any = None
    # Taken where they ask for nothing.
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Any = None
    response_format: Any = None
    modalities: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    @property
    def new_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def conversation(self) -> list[Message]:
        return [Message("system" if m.role == "developer" else m.role, _parts(m.content)) for m in self.messages]


def _parts(content: str | Sequence[TextOf | ImageOf | VideoOf] | None) -> str | list[Part]:
    if content is None or isinstance(content, str):
        return content or ""
    return [_part(part) for part in content]


def _part(part: TextOf | ImageOf | VideoOf) -> Part:
    if isinstance(part, TextOf):
        return TextPart(part.text)
    if isinstance(part, ImageOf):
        return ImagePart(part.image_url.url)
    return VideoPart(part.video_url.url, part.num_frames)


def read(body: bytes, options: ServeOptions) -> ChatRequest:
    """The request in a body.

    Raises: Refusal where it has not the form, asks for too much, or for what no owl does.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        # Only the first: the others often follow from it.
        raise _refused(error.errors(include_url=False)[0]) from None
    _check_wishes(request, options)
    _check_messages(request, options)
    return request


# ---- what the form does not say ------------------------------------------------------------------


def _nothing(value: Any) -> bool:
    return not value


NEUTRAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "presence_penalty": (_nothing, "owls know repetition_penalty instead; leave it out or 0"),
    "frequency_penalty": (_nothing, "owls know repetition_penalty instead; leave it out or 0"),
    "logit_bias": (_nothing, "single tokens cannot be favoured; leave it out"),
    "response_format": (lambda value: value in (None, {"type": "text"}), "answers are free text; leave it out"),
    "modalities": (lambda value: value in (None, ["text"]), "answers are text; leave it out"),
    "tools": (_nothing, "owls call no tools; leave it out"),
    "tool_choice": (lambda value: value in (None, "none", "auto"), "owls call no tools; leave it out"),
    "functions": (_nothing, "owls call no functions; leave it out"),
    "function_call": (lambda value: value in (None, "none", "auto"), "owls call no functions; leave it out"),
    "audio": (_nothing, "owls neither hear nor speak; leave it out"),
    "prediction": (_nothing, "predicted outputs are not supported; leave it out"),
    "reasoning_effort": (lambda value: value in (None, "none"), "owls answer at once; leave it out"),
    "verbosity": (_nothing, "ask for a short answer in words; leave it out"),
    "web_search_options": (_nothing, "owls do not search the web; leave it out"),
}


def _check_wishes(request: ChatRequest, options: ServeOptions) -> None:
    for name, (is_neutral, why) in NEUTRAL.items():
        if not is_neutral(value := getattr(request, name)):
            raise Refusal(
                400, f"{name} is {shown(value)}, which is not supported: {why}", param=name, code="unsupported"
            )
    if request.stream_options is not None and not request.stream:
        raise Refusal(400, "stream_options without stream; expected stream true beside it", param="stream_options")
    if request.top_logprobs is not None and not request.logprobs:
        raise Refusal(400, "top_logprobs without logprobs; expected logprobs true beside it", param="top_logprobs")
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise Refusal(
            400,
            f"max_tokens is {request.max_tokens}, but max_completion_tokens is {request.max_completion_tokens}; "
            "expected one of them",
            param="max_tokens",
        )
    if (request.new_tokens or 1) > options.max_new_tokens:
        raise Refusal(
            400,
            f"{request.new_tokens} new tokens; this server gives at most {options.max_new_tokens}: ask for fewer",
            param="max_tokens" if request.max_completion_tokens is None else "max_completion_tokens",
        )
    if (request.n or 1) > options.max_choices:
        raise Refusal(400, f"n is {request.n}; this server gives at most {options.max_choices} answers", param="n")
    if longest := max((len(stop) for stop in request.stops if len(stop) > LONGEST_STOP), default=0):
        raise Refusal(400, f"stop holds a text of {longest} letters; expected at most {LONGEST_STOP}", param="stop")
    if any(not stop for stop in request.stops):
        raise Refusal(400, "stop holds an empty text; expected texts that may occur in an answer", param="stop")


def _check_messages(request: ChatRequest, options: ServeOptions) -> None:
    if len(request.messages) > options.max_messages:
        raise Refusal(
            400, f"{len(request.messages)} messages; at most {options.max_messages} are read", param="messages"
        )
    images = videos = 0
    for number, message in enumerate(request.messages):
        where = f"messages[{number}]"
        for name in ("refusal", "annotations", "audio", "function_call", "tool_calls"):
            if getattr(message, name):
                raise Refusal(400, f"{where}.{name} is given, which is not supported; leave it out", param=where)
        if message.content is None and message.role != "assistant":
            raise Refusal(400, f"{where}.content is missing; expected a text or a list of parts", param=where)
        if message.role in ("system", "developer") and number:
            raise Refusal(400, f"{where} is a {message.role} message; expected it first, or not at all", param=where)
        for place, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if not isinstance(part, TextOf):
                _check_medium(f"{where}.content[{place}]", message.role, part, options)
                images += isinstance(part, ImageOf)
                videos += isinstance(part, VideoOf)
    for kind, count, most in (("images", images, options.max_images), ("videos", videos, options.max_videos)):
        if count > most:
            raise Refusal(400, f"{count} {kind} in one request; this server takes at most {most}", param="messages")


def _check_medium(where: str, role: str, part: ImageOf | VideoOf, options: ServeOptions) -> None:
    if role in ("system", "developer"):
        kind = "an image" if isinstance(part, ImageOf) else "a video"
        raise Refusal(400, f"{where} is {kind} in a {role} message; expected text there", param=where)
    url = part.image_url.url if isinstance(part, ImageOf) else part.video_url.url
    if not url.startswith(ADDRESSES):
        raise Refusal(400, f"{where}: the url is {shown(url)}; expected a data URL or an http(s) address", param=where)
    if not url.startswith("data:") and not options.remote_media:
        raise Refusal(
            400,
            f"{where}: {shown(url)} is remote, and this server fetches nothing; send the file itself as a data URL",
            param=where,
            code="remote_media_off",
        )
    if isinstance(part, VideoOf) and (part.num_frames or 1) > options.max_frames:
        raise Refusal(
            400, f"{where}.num_frames is {part.num_frames}; this server takes at most {options.max_frames}", param=where
        )


# ---- sentences -----------------------------------------------------------------------------------

KINDS_OF_PARTS = "'text', 'image_url' or 'video_url'"
EXPECTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "literal_error": "{expected}",
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
    "too_long": "at most {max_length}",
    "too_short": "at least {min_length}",
    "union_tag_invalid": KINDS_OF_PARTS,
    "union_tag_not_found": f"one with a type: {KINDS_OF_PARTS}",
}


TAKEN = [
    name for name, field in ChatRequest.model_fields.items() if name not in NEUTRAL and field.annotation is not Any
]
"""The fields that mean something."""


def _refused(fault: Mapping[str, Any]) -> Refusal:
    """A fault that pydantic found, as a sentence with the place, what stands there and what should."""
    place = [step for step in fault["loc"] if not (isinstance(step, str) and step.startswith("<"))]
    where, kind, context = named(place), fault["type"], fault.get("ctx", {})
    if kind == "json_invalid":
        return Refusal(400, f"the body is no JSON ({context.get('error', 'unreadable')}); expected an object")
    if kind == "missing":
        return Refusal(400, f"{where} is missing; give it", param=where)
    if kind == "extra_forbidden":
        name = str(place[-1])[:SHOWN]
        hint = did_you_mean(name, TAKEN) if len(place) == 1 else "; leave it out"
        return Refusal(400, f"unknown field {where[:200]!r}{hint}", param=where[:200])
    what = where or "the body"
    if kind not in EXPECTED:
        return Refusal(400, f"{what}: {fault['msg']}", param=where or None)
    expected = EXPECTED[kind].format(**context)
    if kind == "string_type" and (place[-1:] == ["content"] or place[-1:] == ["stop"]):
        expected = "a text or a list"
    if kind == "union_tag_invalid":
        return Refusal(400, f"{what}.type is {shown(fault['input'].get('type'))}; expected {expected}", param=where)
    return Refusal(400, f"{what} is {shown(fault['input'])}; expected {expected}", param=where or None)


def named(place: Sequence[str | int]) -> str:
    """`messages[0].content`: how a client would write the place."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return "".join(steps).removeprefix(".")


def shown(value: Any) -> str:
    """A wrong value in a sentence: never a page of it."""
    if isinstance(value, str):
        return repr(value if len(value) <= SHOWN else value[:SHOWN] + "...")
    if isinstance(value, Mapping):
        return "an object" if value else "an empty object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return json.dumps(value)[:SHOWN]


# ---- the description -----------------------------------------------------------------------------


def component_schemas() -> dict[str, Any]:
    """The JSON schemas of requests and replies, by name."""
    place = "#/components/schemas/{model}"
    asked = TypeAdapter(ChatRequest).json_schema(mode="validation", ref_template=place)
    said = [TypeAdapter(reply).json_schema(mode="serialization", ref_template=place) for reply in REPLIES]
    found: dict[str, Any] = {}
    for schema in (asked, *said):
        found |= schema.pop("$defs", {})
        found[schema["title"]] = schema
    return found
