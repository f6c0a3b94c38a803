"""The controls that pages share: where a question is asked, and how it is to be answered."""

from typing import Any

import gradio as gr

from mplug_owl.serve.ui.upload import SUFFIXES

HINT = "Ask about pictures, videos or anything. Enter sends, Shift+Enter begins a line."
GREEDY = "0 takes the likeliest word each time; more makes answers more varied"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""What all events of a page have in common."""


def parameter_controls(usual_tokens: int, most_tokens: int) -> list[Any]:
    """Draw the controls, folded away, and return them."""
    with gr.Accordion("Parameters", open=False, elem_classes="owl-parameters"):
        with gr.Row():
            temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", info=GREEDY)
            tokens = gr.Slider(1, most_tokens, usual_tokens, step=1, label="Longest answer, in tokens")
        with gr.Row():
            top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="keeps the likeliest words up to this share")
            top_k = gr.Slider(
                0, 200, 0, step=1, label="Top-k", info="keeps so many of the likeliest words; 0 keeps all"
            )
        with gr.Row():
            seed = gr.Number(None, label="Seed", info="the same seed draws the same answer", precision=0, minimum=0)
            system = gr.Textbox(
                "", label="System message", info="empty: the model's own", lines=1, max_lines=4, scale=2
            )
    return [temperature, top_p, top_k, tokens, seed, system]


def question_box() -> gr.MultimodalTextbox:
    return gr.MultimodalTextbox(
        label="Question",
        show_label=False,
        placeholder=HINT,
        file_types=SUFFIXES,
        file_count="multiple",
        max_plain_text_length=100_000,
        autofocus=True,
        elem_id="owl-question",
    )
