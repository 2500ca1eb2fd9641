"""Put a model card together from the files of a run, and recognize one that a person has changed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from csr_hf.plumbing.atomic import write_whole
from csr_hf.publishing.backbone_facts import BackboneFacts
from csr_hf.publishing.latent_names import render_latents
from csr_hf.publishing.model_card_facts import RESULTS, CardFacts
from csr_hf.publishing.model_card_metadata import CardOptions, make_card_data, make_eval_results
from csr_hf.publishing.model_card_sections import (
    describe_purpose,
    describe_snippet,
    list_limits,
    render_results,
    render_training,
    render_versions,
    summarize,
)
from csr_hf.publishing.model_card_snippets import is_compared_by_cosine, read_settings, render_assembly

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_MARK = re.compile(r"\n<!-- Made by csr-hf from the files in results/; sha256 ([0-9a-f]{16})\. [^>]*-->\n*\Z")


def write_card(folder: Path, layout: str, options: CardOptions, backbone: BackboneFacts | None) -> list[str]:
    """Write `README.md` and `.eval_results/` into a folder that holds config.json and `results/`.

    Files of an earlier card in `.eval_results/` are removed.

    Args:
        folder: the published model.
        layout: "full" or "head".
        options: what the author adds.
        backbone: license and language of the backbone.

    Returns:
        Warnings for the user, one sentence each.
    """
    facts, backbone = CardFacts.read(folder), backbone or BackboneFacts()
    text = render_card(facts, layout, options, backbone)
    files = make_eval_results(facts)
    for name, entries in files.items():
        with write_whole(folder / ".eval_results" / name) as temporary:
            temporary.write_text(entries, encoding="utf-8")
    for path in (folder / ".eval_results").glob("*.yaml"):
        if path.name not in files:
            path.unlink()
    with write_whole(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    notes = [_compare_licenses(options.license, backbone.license)]
    if facts.results is None:
        notes.append("the card has no figures: the run was not evaluated")
    return [note for note in notes if note]


def render_card(facts: CardFacts, layout: str, options: CardOptions, backbone: BackboneFacts) -> str:
    """Render the card as text; the same files and options give the same text.

    Args:
        facts: what the files of the run say.
        layout: "full" or "head".
        options: what the author adds.
        backbone: license and language of the backbone.

    Raises:
        ValueError: if the config's `base_model_settings` are wrong.
    """
    from huggingface_hub import ModelCard

    config, k = facts.config, facts.config["k"]
    settings = read_settings(config, options.repo_id)
    recorded = settings.to_record()
    card = ModelCard.from_template(
        make_card_data(facts, layout, options, backbone),
        template_path=str(_TEMPLATE),
        name=options.name,
        repo_id=options.repo_id,
        layout=layout,
        assembly=render_assembly(config, facts.base_model, options.repo_id) if layout == "head" else "",
        backbone_settings=json.dumps(recorded, indent=2) if recorded else "",
        is_cosine=is_compared_by_cosine(settings),
        input_dim=config["input_dim"],
        modalities=config.get("modalities"),
        k=k,
        small_k=max(1, k // 2),
        purpose=describe_purpose(config, facts.results, layout),
        snippet_note=describe_snippet(config, facts.results),
        plots=[f"{RESULTS}/{name}" for name in facts.plots],
        summary=summarize(config, facts.base_model, facts.results),
        results=render_results(facts.measured, RESULTS),
        latents=render_latents(facts.latents),
        training=render_training(config, facts.recipe, RESULTS),
        limits=list_limits(config, facts.recipe, facts.results),
        versions=render_versions(facts.recipe),
    )
    text = str(card).rstrip("\n") + "\n"
    return (
        text
        + f"\n<!-- Made by csr-hf from the files in results/; sha256 {_digest(text)}. Change those, not this. -->\n"
    )


def is_generated(card: str) -> bool:
    """Tell whether a card is exactly as csr_hf rendered it, by the digest in its last line."""
    card = card.replace("\r\n", "\n")
    mark = _MARK.search(card)
    return mark is not None and mark[1] == _digest(card[: mark.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.rstrip("\n").encode()).hexdigest()[:16]


def _compare_licenses(chosen: str | None, backbone: str | None) -> str | None:
    """Word a warning where the card's license is unknown or is not the backbone's; None where they agree."""
    if backbone is None:
        return None if chosen else "the card names no license: that of the backbone is unknown (--license)"
    if chosen is None or chosen.lower() == backbone.lower():
        return None
    return (
        f"the card's license is {chosen!r} and the backbone's is {backbone!r}: check that the backbone's terms allow "
        f"that, or use --license {backbone}"
    )
