"""The commands that share heads and take those of others: export, push, card, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.cli.output import print_doors, print_export, print_line
from csr_hf.cli.report import Report
from csr_hf.cli.trying import push_space

if TYPE_CHECKING:
    from csr_hf.cli.invocation import Invocation
    from csr_hf.cli.publishing_options import CardSettings
    from csr_hf.publishing.export import Exported
    from csr_hf.publishing.model_card import CardOptions


def export(called: Invocation) -> Report:
    """Write a head as a folder that is ready to be shared."""
    from csr_hf.plumbing.atomic import check_writable
    from csr_hf.publishing.export import export as write

    (options,) = called.options
    check_writable(options.output.parent)
    exported = write(
        options.model,
        options.output,
        **_layout(options),
        card=_card(options, options.repo_id),
        device=called.device,
        overwrite=options.overwrite,
    )

    def show() -> None:
        print_export(exported)
        print_doors(str(options.output), exported)

    return Report({"output": options.output, **_describe(exported)}, show)


def push(called: Invocation) -> Report:
    """Export to a temporary folder and publish that."""
    import tempfile

    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    from csr_hf.publishing.export import export as write
    from csr_hf.publishing.hub import push as publish

    (options,) = called.options
    if (options.repo_id is None) == (options.space is None):
        raise ValueError("give either user/name for the head, or --space user/name for a page to try its search.")
    if options.space is not None:
        return push_space(called)
    # Of all the bars that the libraries show, those of the upload are wanted.
    show_upload = not (called.no_progress or are_progress_bars_disabled())
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary:
        exported = write(
            options.model,
            Path(temporary) / "model",
            **_layout(options),
            card=_card(options, options.repo_id),
            device=called.device,
        )
        if not called.quiet:
            print_export(exported)
        if show_upload:
            enable_progress_bars()
        done = publish(
            exported.folder,
            options.repo_id,
            private=options.private,
            create_pr=options.create_pr,
            revision=options.revision,
            edited_card="keep" if options.keep_card else "overwrite" if options.overwrite_card else "refuse",
        )
    kind = "pull request" if options.create_pr else "pushed"

    def show() -> None:
        print_line(f"{kind}: {done.url}, commit {done.commit}. Load it with:")
        print_doors(done.repo_id, exported, done.revision)

    pushed = {"repo_id": done.repo_id, "url": done.url, "commit": done.commit, "revision": done.revision}
    return Report({**pushed, **_describe(exported)}, show)


def card(called: Invocation) -> Report:
    """Write a model card and what it quotes."""
    from csr_hf.publishing.export import write_card_folder

    (options,) = called.options
    notes = write_card_folder(
        options.model,
        options.output,
        **_layout(options),
        card=_card(options, options.repo_id),
        overwrite=options.overwrite_card,
    )

    def show() -> None:
        for line in [*notes, f"{options.output}/README.md, made from {options.output}/results/"]:
            print_line(line)

    return Report({"card": options.output / "README.md", "notes": notes}, show)


def import_head(called: Invocation) -> Report:
    """Turn a head that others saved into one of csr_hf."""
    from csr_hf.embedding.loading import load_packed_backbone
    from csr_hf.heads import import_head as read
    from csr_hf.plumbing.atomic import check_writable, write_whole
    from csr_hf.publishing.export import check_same_head, check_target
    from csr_hf.publishing.sentence_transformers import write_full

    (options,) = called.options
    target = check_target(options.output, options.source)
    check_writable(target.parent)
    head, repository = read(options.source, k=options.k, file=options.file, revision=options.revision)
    if not options.overwrite:
        check_same_head(target, head)
    backbone = None
    if repository is not None and options.base_model is None:
        # Sentence-transformers trains the backbone too: the head fits the one it comes with.
        backbone = load_packed_backbone(repository, options.source, device=called.device)
    base = options.base_model or head.config.base_model_name_or_path
    if base != head.config.base_model_name_or_path:
        head.config.base_model_revision = None
    head.config.base_model_name_or_path = base
    with write_whole(target, folder=True) as temporary:
        if backbone is not None:
            write_full(backbone, head, temporary)
        else:
            head.save_pretrained(temporary)
    config = head.config
    unknown = "It names no backbone: --base-model says on which one it was trained"
    return Report(
        {
            "output": options.output,
            "input_dim": config.input_dim,
            "hidden_dim": config.hidden_dim,
            "k": config.k,
            "backbone": base,
            "holds_backbone": backbone is not None,
        },
        lambda: print_line(f"{config.input_dim} -> {config.hidden_dim}, k {config.k}, in {options.output}"),
        [unknown] if backbone is None and base is None else [],
    )


def _describe(exported: Exported) -> dict[str, Any]:
    return {"layout": exported.layout, "reason": exported.reason, "notes": list(exported.notes)}


def _layout(options: CardSettings) -> dict[str, Any]:
    return {"layout": options.layout, "base_model": options.base_model}


def _card(options: CardSettings, repo_id: str | None) -> CardOptions:
    from csr_hf.publishing.model_card import CardOptions

    named = {"repo_id": repo_id} if repo_id else {}
    return CardOptions(**named, license=options.license, datasets=options.dataset)
