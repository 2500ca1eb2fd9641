"""The page: gradio's controls around the HTML of answers, of the map and of comparisons."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.demo.answering import MOST_HITS, Rerank, Settings, answer, reranks_of
from csr_hf.demo.comparing import compare
from csr_hf.demo.latent_map import draw_map
from csr_hf.demo.latent_page import list_latents, show_latent, show_map
from csr_hf.demo.markup import show_note
from csr_hf.demo.results import show_answer, show_comparison, show_header
from csr_hf.demo.run_view import LONGEST, RunView

if TYPE_CHECKING:
    import gradio as gr

logger = logging.getLogger(__name__)

_RERANKS = {
    "none": "nothing",
    "codes": "residuals",
    "float16": "float16 copies",
    "index": "the index itself",
}
_STEERING = {"more": "more of", "without": "without", "must": "only documents with"}
_MOST_STEERED = 500
_AT_A_TIME = 4
_FOLDER = Path(__file__).parent


def import_gradio() -> Any:
    """Import gradio, with its analytics off.

    Raises:
        ImportError: if it is missing, with the command that installs it.
    """
    import os

    # It asks the network for its version otherwise.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError('the page needs gradio: pip install "csr_hf[demo]"') from error
    return gradio


def read_style() -> str:
    """Return the style sheet of the page."""
    return (_FOLDER / "page.css").read_text(encoding="utf-8")


def build_page(view: RunView) -> gr.Blocks:
    """Build the page of a run; nothing is opened yet.

    Raises:
        ImportError: if gradio is missing.
    """
    gr = import_gradio()
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    with gr.Blocks(title=f"{view.title} · csr_hf", analytics_enabled=False, fill_width=False) as page:
        gr.HTML(show_header(view), js_on_load=None, apply_default_css=False)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Search", id="search"):
                results = _build_search(gr, page, view, script)
            with gr.Tab("Latents", id="latents"):
                chosen, drawn, panel = _build_latents(gr, view, script)
            with gr.Tab("Compare", id="compare"):
                compared = _build_comparison(gr, view, script)

        def reveal(event: Any) -> tuple[Any, Any, str]:
            latent = _read_latent(event)
            is_listed = 0 <= latent < len(view.fires) and view.fires[latent] > 0
            return gr.Tabs(selected="latents"), latent if is_listed else None, show_latent(view, latent)

        # By this annotation gradio knows what to pass; the name `gr` is that of a variable here.
        reveal.__annotations__["event"] = gr.EventData
        for place in (results, drawn, panel, compared):
            place.select(
                reveal,
                None,
                [tabs, chosen, panel],
                show_progress="hidden",
                concurrency_limit=_AT_A_TIME,
                api_visibility="private",
            )
    return page


def _build_search(gr: Any, page: gr.Blocks, view: RunView, script: str) -> gr.HTML:
    first = view.questions[0] if view.questions else ""
    with gr.Row(elem_classes="csr-form"):
        question = gr.Textbox(
            first,
            label="Question",
            placeholder="Ask in words",
            max_length=LONGEST,
            scale=5,
            min_width=280,
            elem_id="question",
        )
        ask = gr.Button("Search", variant="primary", scale=1, min_width=110, elem_id="ask")
        sent = [_build_upload(gr)] if view.takes_pictures else []
    with gr.Row(elem_classes="csr-ask"):
        picks = [gr.Button(text, size="sm", elem_classes="csr-pick") for text in view.questions]
    inputs = [question, *_build_settings(gr, view)]
    results = gr.HTML("", js_on_load=script, apply_default_css=False, elem_id="results")

    def search(asked: str, wanted: float, by: Rerank, hits: float, *others: Any) -> str:
        more, without, must = (each or () for each in others[:3])
        picture = others[3] if len(others) > 3 else None
        question = str(asked or "") if picture is None else picture
        chosen = Settings(int(wanted), by, int(hits), more, without, must)
        return _say_mistakes(lambda: show_answer(view, answer(view, question, chosen), chosen))

    def search_words(*given: Any) -> Any:
        # A question in words takes the place of a picture.
        found = search(*given)
        return [found, None] if sent else found

    options: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": _AT_A_TIME, "concurrency_id": "search"}
    hidden: dict[str, Any] = {**options, "api_visibility": "private"}
    gr.on([question.submit, ask.click], search_words, inputs, [results, *sent], api_name="search", **options)
    changes = [each.change for each in inputs[1:]]
    gr.on(changes, search, [*inputs, *sent], results, trigger_mode="always_last", **hidden)
    page.load(search, inputs, results, **hidden)
    for upload in sent:
        upload.upload(search, [*inputs, upload], results, **hidden)
    for pick, text in zip(picks, view.questions, strict=True):
        # Each takes its own text along: the loop goes on.
        pick.click(lambda text=text: text, None, question, api_visibility="private", show_progress="hidden").then(
            search_words, inputs, [results, *sent], **hidden
        )
    return results


def _build_upload(gr: Any) -> Any:
    """Build the button that sends a picture; its content comes as bytes, whatever it is."""
    return gr.UploadButton(
        "Search by a picture", file_types=["image"], type="binary", scale=1, min_width=170, elem_id="picture"
    )


def _build_settings(gr: Any, view: RunView) -> list[Any]:
    """Build what says how to search: k, rerank, hits, latents to add, to take out and to require."""
    with gr.Row():
        first_k = min(view.k, view.head.config.k)
        k = gr.Slider(
            1, max(view.k, 2), first_k, step=1, label="k: latents of a code", scale=4, min_width=260, elem_id="k"
        )
        top_k = gr.Slider(1, MOST_HITS, 10, step=1, label="hits", scale=2, min_width=180, elem_id="hits")
        choices = [(_RERANKS[name], name) for name in reranks_of(view)]
        rerank = gr.Radio(choices, value="none", label="rerank by", elem_id="rerank", scale=4, min_width=330)
    with gr.Accordion("Steer by latents", open=False):
        named = list_latents(view)[:_MOST_STEERED]
        with gr.Row():
            steering = [
                gr.Dropdown(named, value=[], multiselect=True, label=label, min_width=240, elem_id=name)
                for name, label in _STEERING.items()
            ]
    return [k, rerank, top_k, *steering]


def _build_latents(gr: Any, view: RunView, script: str) -> tuple[gr.Dropdown, gr.HTML, gr.HTML]:
    chosen = gr.Dropdown(
        list_latents(view), value=None, label="find a latent by name", filterable=True, elem_id="latent"
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            drawn = gr.HTML(show_map(view, draw_map(view)), js_on_load=script, apply_default_css=False, elem_id="map")
        with gr.Column(scale=2, min_width=300):
            panel = gr.HTML(
                show_note("Choose a latent to see its texts."),
                js_on_load=script,
                apply_default_css=False,
                elem_id="panel",
            )

    def show(latent: int | None) -> str:
        return "" if latent is None else show_latent(view, int(latent))

    chosen.input(show, chosen, panel, show_progress="hidden", api_name="latent", concurrency_limit=_AT_A_TIME)
    return chosen, drawn, panel


def _build_comparison(gr: Any, view: RunView, script: str) -> gr.HTML:
    with gr.Row():
        texts = [
            gr.Textbox(label=f"{name} text", lines=4, max_lines=8, max_length=LONGEST, elem_id=name, min_width=280)
            for name in ("first", "second")
        ]
    with gr.Row(elem_classes="csr-form"):
        k = gr.Slider(
            1,
            max(view.head.config.k, 2),
            view.head.config.k,
            step=1,
            label="k: latents of a code",
            scale=4,
            min_width=260,
            elem_id="compare-k",
        )
        go = gr.Button("Compare", variant="primary", scale=1, min_width=110, elem_id="compare")
    compared = gr.HTML("", js_on_load=script, apply_default_css=False, elem_id="compared")

    def run(first: str, second: str, wanted: float) -> str:
        texts = str(first or ""), str(second or "")
        return _say_mistakes(lambda: show_comparison(view, compare(view, *texts, int(wanted))))

    options: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": _AT_A_TIME, "concurrency_id": "compare"}
    gr.on([go.click, *(text.submit for text in texts)], run, [*texts, k], compared, api_name="compare", **options)
    k.change(run, [*texts, k], compared, trigger_mode="always_last", api_visibility="private", **options)
    return compared


def _read_latent(event: Any) -> int:
    """Read which latent an event is about; what a browser sends may be anything."""
    try:
        return int(event.latent)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return -1


def _say_mistakes(show: Callable[[], str]) -> str:
    """Show what is wrong with an input in the place of a result."""
    try:
        return show()
    except ValueError as error:
        return show_note(error, alert=True)
