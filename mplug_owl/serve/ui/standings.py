"""The standings of models as a table in HTML. Where they come from is not known here."""

from collections.abc import Sequence
from html import escape

from mplug_owl.serve.ui.votes import Standing


def standings_table(rows: Sequence[Standing], votes: int) -> str:
    """The standings for a page."""
    if not rows:
        return '<p class="owl-quiet">No votes yet.</p>'
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("Model", "Rating", "95%", "Won", "Lost", "Tied", "Both bad")
    )
    body = "".join(
        f"<tr><td>{escape(row.model)}</td><td>{row.rating:.0f}</td><td>{row.low:.0f} to {row.high:.0f}</td>"
        f"<td>{row.wins}</td><td>{row.losses}</td><td>{row.ties}</td><td>{row.bad}</td></tr>"
        for row in rows
    )
    return (
        f'<div class="owl-scroll" tabindex="0" role="group" aria-label="Standings"><table class="owl-table">'
        f"<caption>{votes} vote{'s' if votes != 1 else ''}. 1000 is the average; 400 more are odds of ten to one. "
        "Ties and both bad count as half a win for each; every pair is taken to have tied once before.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
