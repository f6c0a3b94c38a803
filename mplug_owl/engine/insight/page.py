"""A look as a page that needs nothing else: no script, no other file, nothing from outside.

Choosing a word shows where it comes from; below stand every word on its own, how each layer divides its attention, what
each query summarises and the words that visual positions are nearest to. A `fragment` goes into other pages.
"""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image
from torch import Tensor

from mplug_owl.engine.insight.heat import fitted, tile
from mplug_owl.engine.insight.look import Look

SIDE, SIDE_OF_MANY = 448, 224
"""Pixels of the longer edge of a picture in the page, at most: of the only one, and of one of several."""
_LAYERS = 6
"""Layers whose nearest words are shown, at most."""
_STYLE = """
.owl-look{font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
.owl-look h3{font-size:1.05rem;margin:1.6rem 0 .4rem}
.owl-look input{position:absolute;opacity:0;pointer-events:none;width:0;margin:0}
.owl-look label{cursor:pointer;border-bottom:2px dotted #d97706;padding:0 .1em}
.owl-look input:checked+label{background:#d97706;color:#fff;border-radius:.2em}
.owl-look input:focus-visible+label{outline:3px solid #d97706;outline-offset:2px}
.owl-look .said{font-size:1.15rem;white-space:pre-wrap;margin:.4rem 0 .8rem}
.owl-look .views,.owl-look .small{display:flex;flex-wrap:wrap;gap:.6rem}
.owl-look figure{margin:0}
.owl-look figcaption{font-size:.8rem;max-width:22rem}
.owl-look .pair{display:flex;gap:.2rem}
.owl-look .view{position:relative;overflow:hidden;background-size:100% 100%;max-width:100%}
.owl-look .view img{position:absolute;box-shadow:0 0 0 999px rgba(128,128,128,.84);max-width:none;margin:0}
.owl-look .views .view img{opacity:0}
.owl-look table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem}
.owl-look td,.owl-look th{padding:.15rem .5rem;text-align:left;vertical-align:top}
.owl-look .bar{display:inline-block;height:.7em;background:#d97706;margin-right:.4em}
.owl-look .scroll{overflow-x:auto;max-height:30rem}
"""


def page(look: Look) -> str:
    """The whole page."""
    title = escape(look.question or "A look inside")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>body{{margin:1rem auto;max-width:72rem;padding:0 1rem;color-scheme:light dark}}"
        f"</style></head><body>\n{fragment(look)}\n</body></html>\n"
    )


def fragment(look: Look, name: str = "look") -> str:
    """The part of a page; `name` tells it from others on the same page."""
    side = SIDE if len(look.views) == 1 else SIDE_OF_MANY
    sizes = [fitted(view.picture.size, side, side) for view in look.views]
    rules = [_STYLE]
    for number, (view, size) in enumerate(zip(look.views, sizes, strict=True)):
        picture = view.picture if view.picture.width <= size[0] else view.picture.resize(size)
        rules.append(f".{name}-v{number}{{background-image:url({_data(picture)});aspect-ratio:{size[0]}/{size[1]}}}")
    maps = [look.overall, *look.maps]
    rules += [f"#{name}-{n}:checked~.views .m{n}{{opacity:1!important}}" for n in range(len(maps))]
    parts = [
        f"<style>{''.join(rules)}</style>",
        f"<p>{escape(look.question)}</p>",
        '<div class="said" role="radiogroup" aria-label="Words of the answer">' + _words(look, name),
        '<div class="views">' + "".join(_figure(look, number, maps, sizes, name) for number in range(len(sizes))),
        "</div></div>",
        "<h3>Every word</h3>",
        '<div class="small">',
        *(
            _small(look, heat, range(len(look.views)), 120, name, f"{word.text} ({100 * word.probability:.0f}%)")
            for word, heat in zip(look.words, look.maps, strict=True)
        ),
        "</div>",
        _shares(look),
        *_queries(look, name),
        _lens(look),
    ]
    return f'<div class="owl-look">{"".join(parts)}</div>'


def _words(look: Look, name: str) -> str:
    """The answer, each word of which can be chosen; the whole of it is, at first."""
    made = [_choice(name, 0, "(the whole answer)", True), " "]
    end = 0
    for number, word in enumerate(look.words):
        made += [escape(look.answer[end : word.start]), _choice(name, number + 1, word.text, False)]
        end = word.end
    return "".join([*made, escape(look.answer[end:])])


def _choice(name: str, number: int, text: str, chosen: bool) -> str:
    checked = " checked" if chosen else ""
    return (
        f'<input type="radio" name="{name}" id="{name}-{number}"{checked}>'
        f'<label for="{name}-{number}">{escape(text)}</label>'
    )


def _figure(look: Look, number: int, maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]], name: str) -> str:
    """One view under the maps of all words, of which one shows at a time."""
    heats = "".join(_heat(look, number, heat, f"m{n}") for n, heat in enumerate(maps))
    caption = f"<figcaption>{escape(look.views[number].name)}</figcaption>" if len(look.views) > 1 else ""
    wide = sizes[number][0]
    return f'<figure><div class="view {name}-v{number}" style="width:{wide}px">{heats}</div>{caption}</figure>'


def _small(look: Look, heat: Tensor, views: Sequence[int], wide: int, name: str, caption: str) -> str:
    """Some views side by side under one map, whose rows they are."""
    most = float(heat.max())
    shown = "".join(
        f'<div class="view {name}-v{view}" style="width:{wide}px">{_heat(look, view, heat, "", row, most)}</div>'
        for row, view in enumerate(views)
    )
    return f'<figure><div class="pair">{shown}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _heat(look: Look, view: int, heat: Tensor, kind: str, row: int | None = None, most: float | None = None) -> str:
    """The map over a view; rows of maps are views unless said otherwise."""
    left, top, right, bottom = (100 * share for share in look.views[view].box)
    place = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
    made = tile(heat[view if row is None else row], float(heat.max()) if most is None else most)
    return f'<img class="{kind}" alt="" style="{place}" src="{_data(made)}">'


def _shares(look: Look) -> str:
    """How every layer divides its attention, over all words."""
    means = look.shares.mean(1).tolist()
    kept = [number for number in range(len(look.sources)) if any(row[number] for row in means)]
    head = "".join(f"<th>{escape(look.sources[number])}</th>" for number in kept)
    rows = "".join(
        f"<tr><th>{layer}</th>{''.join(_bar(row[number]) for number in kept)}</tr>" for layer, row in enumerate(means)
    )
    return (
        "<h3>What each layer of the decoder attends to</h3>"
        f'<div class="scroll"><table><tr><th>layer</th>{head}</tr>{rows}</table></div>'
    )


def _bar(share: float) -> str:
    return f'<td><span class="bar" style="width:{6 * share:.2f}em"></span>{100 * share:.1f}%</td>'


def _queries(look: Look, name: str) -> list[str]:
    """What each query of each image or video summarises."""
    made = []
    for medium, maps in enumerate(look.queries):
        title = look.sources[2 + medium]
        views = [number for number, view in enumerate(look.views) if view.medium == medium]
        shown = "".join(
            _small(look, heat, views, 72, name, _query_caption(look, medium, number))
            for number, heat in enumerate(maps)
        )
        made += [f"<h3>What each query summarises: {escape(title)}</h3>", f'<div class="small">{shown}</div>']
    return made


def _query_caption(look: Look, medium: int, number: int) -> str:
    """Its number, and the word it is nearest to behind the last layer."""
    nearest = f": {look.lens[-1][look.places[medium][number]][0][0]}" if look.lens else ""
    return f"{number}{nearest}"


def _lens(look: Look) -> str:
    """The nearest words behind some layers; the last is among them."""
    if not look.lens:
        return ""
    depth = len(look.lens)
    layers = sorted({round((n + 1) * depth / min(depth, _LAYERS)) - 1 for n in range(min(depth, _LAYERS))})
    head = "".join(f"<th>behind layer {layer}</th>" for layer in layers)
    rows = []
    for medium, places in enumerate(look.places):
        for number, place in enumerate(places):
            cells = "".join(f"<td>{_nearest(look.lens[layer][place])}</td>" for layer in layers)
            rows.append(f"<tr><th>{escape(look.sources[2 + medium])}, {number}</th>{cells}</tr>")
    return (
        "<h3>The words that visual positions are nearest to</h3><details><summary>Show them</summary>"
        f'<div class="scroll"><table><tr><th>position</th>{head}</tr>{"".join(rows)}</table></div></details>'
    )


def _nearest(words: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{escape(text)} {100 * near:.0f}%" for text, near in words)


def _data(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
