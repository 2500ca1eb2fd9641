"""The commands that encode, index and search."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.cli.output import print_hits, print_line, python_search, typed_questions
from csr_hf.cli.recipes import read_recipe
from csr_hf.cli.report import Report, hits_data
from csr_hf.plumbing.redaction import without_secrets

if TYPE_CHECKING:
    from csr_hf.backends import Backend
    from csr_hf.cli.invocation import Invocation
    from csr_hf.cli.options import DeleteOptions, EncodeOptions, SearchOptions
    from csr_hf.coding.coder import Coder
    from csr_hf.coding.compact import CompactCodes
    from csr_hf.coding.compact_coder import CompactCoder
    from csr_hf.coding.packing import PackedCodes
    from csr_hf.encoder import CSREncoder
    from csr_hf.explain.steering import Steer
    from csr_hf.explain.why import Match
    from csr_hf.runs.searcher import Hit, RunSearcher
    from csr_hf.search.params import SearchParams
    from csr_hf.search_index import SearchIndex
    from csr_hf.sparse_codes import SparseCodes

_FLAGS = {
    "pass `replace=True`": "pass --replace",
    "Pass `missing_ok=True`": "Pass --missing-ok",
    "`data.columns` gives text": "--text-column gives",
    "`data.id_column` gives": "--id-column gives",
    "with `data.columns`, for example {anchor: question, positive: answer}": "with --text-column",
    "Write one with `InvertedIndex.save`": "Make one with `csr-hf index`",
}
"""What errors say of Python: how the flags of `add` and `delete` say it."""


def encode(called: Invocation) -> Report:
    """Encode texts into a file."""
    from csr_hf.coding.coder import Coder
    from csr_hf.data.texts import read_texts
    from csr_hf.encoder import CSREncoder
    from csr_hf.plumbing.atomic import check_no_folder, check_writable

    (options,) = called.options
    check_writable(options.output.parent)
    check_no_folder(options.output)
    texts, ids = read_texts(options.input, options.column)
    encoder = CSREncoder.from_pretrained(
        options.model, device=called.device, trust_remote_code=called.trust_remote_code
    )
    settings = {"prompt_name": options.prompt_name, "task": options.task, "batch_size": options.batch_size}
    stored: SparseCodes | PackedCodes | CompactCodes
    if options.coder:
        rows = encoder.subtract_modality_means(encoder.embed(texts, **settings), texts)
        stored = _find_coder(options.coder, options, encoder).encode(rows)
    elif options.refine != "values" and (options.bits or options.bytes):
        coder = Coder(
            encoder.head,
            k=options.k if options.k or options.bytes else encoder.head.config.k,
            bits=options.bits or 3,
            row_bytes=options.bytes,
        )
        stored = coder.encode(encoder.subtract_modality_means(encoder.embed(texts, **settings), texts))
    elif options.bytes:
        raise ValueError(f"`--bytes` ({options.bytes}) needs latents chosen by pursuit. Leave out `--refine values`.")
    else:
        refine: Any = "pursuit" if options.refine == "pursuit" else bool(options.refine)
        codes = encoder.encode(texts, max_active_dims=options.k, refine=refine, **settings)
        stored = codes.astype("float16") if options.bits is None else codes.pack(options.bits)
    stored.save(options.output, ids=ids)
    data = {
        "output": options.output,
        "rows": len(stored),
        "k": getattr(stored, "k", None),
        "latents": encoder.head.config.hidden_dim,
        "bits": getattr(stored, "bits", None),
    }
    data["bytes_per_row"] = stored.nbytes / max(len(stored), 1)
    return Report(data, lambda: print_line(f"{stored} in {options.output}"))


def _find_coder(path: Path, options: EncodeOptions, encoder: CSREncoder) -> Coder | CompactCoder:
    """Read a coder, or fit and write it.

    Raises:
        ValueError: for options that a coder leaves no choice of, or other bytes than its own.
    """
    from csr_hf.coding.compact_coder import load_coder
    from csr_hf.runs.coders import fit_run_coder

    chosen = [f"--{name}" for name in ("k", "bits", "refine") if getattr(options, name) is not None]
    if chosen:
        raise ValueError(f"`--coder` ({path}) has chosen {', '.join(chosen)} itself. Leave them out.")
    if path.exists():
        coder = load_coder(path, encoder.head)
        if options.bytes not in (None, coder.bytes_per_vector):
            own = f"differs from the {coder.bytes_per_vector} of {path}"
            raise ValueError(f"`--bytes` ({options.bytes}) {own}. Leave it out, or name another file.")
        return coder
    if options.bytes is None:
        raise ValueError(f"`--coder` ({path}) does not exist. Give the `--bytes` to fit one for.")
    coder = fit_run_coder(options.model, encoder.head, encoder.backbone, options.bytes)
    coder.save(path)
    return coder


def index(called: Invocation) -> Report:
    """Index a corpus with a head that was trained before."""
    from csr_hf.runs.folder import RunFolder
    from csr_hf.runs.indexing import index as index_corpus

    (options,) = called.options
    recipe = read_recipe(called)
    with _open_backend(options.backend, options.collection, recipe.output_dir) as backend:
        index_corpus(recipe, backend=backend, overwrite=options.overwrite, trust_remote_code=called.trust_remote_code)
    url = without_secrets(options.backend) if options.backend else None
    there = f" --backend {url}" if url else ""
    there += f" --collection {options.collection}" if url and options.collection else ""
    folder = RunFolder.of(recipe.output_dir)
    advice = f"csr-hf search {recipe.output_dir}{there}" if folder.has_texts else python_search(folder)
    return Report({"output_dir": folder.path, "backend": url}, advice=["\nSearch it:", f"  {advice}"])


def add(called: Invocation) -> Report:
    """Add documents to the index of a run."""
    from csr_hf.runs.adding import add_documents

    (options,) = called.options
    with _named_by_flags():
        added, total = add_documents(
            options.run,
            options.source,
            text_column=options.text_column,
            id_column=options.id_column,
            replace=options.replace,
            device=called.device,
            trust_remote_code=called.trust_remote_code,
        )
    data = {"run": options.run, "added": added, "documents": total}
    return Report(data, lambda: print_line(f"{added:,} documents added; {options.run} has {total:,}"))


def delete(called: Invocation) -> Report:
    """Delete documents from the index of a run."""
    from csr_hf.search_index import SearchIndex

    (options,) = called.options
    if bool(options.ids) == (options.where is not None):
        raise ValueError("give either --ids a,b or --where 'price > 100', to say which documents are deleted.")
    with _named_by_flags():
        index = SearchIndex.load(options.run, texts=False)
        deleted = _delete(index, options)
    if options.compact:
        index.index.compact()
    index.save(options.run)
    data = {"run": options.run, "deleted": deleted, "documents": len(index)}
    return Report(data, lambda: print_line(f"{deleted:,} documents deleted; {options.run} has {len(index):,}"))


def _delete(index: SearchIndex, options: DeleteOptions) -> int:
    given = {"filter": options.where} if options.where is not None else {"ids": index.read_ids(options.ids)}
    return index.delete(**given, missing_ok=options.missing_ok)


@contextmanager
def _named_by_flags() -> Iterator[None]:
    """Name what an error says of Python by the flags of the command line."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
        for keyword, flag in _FLAGS.items():
            said = said.replace(keyword, flag)
        if said == str(error):
            raise
        raise ValueError(said) from error


def search(called: Invocation) -> Report:
    """Search a finished run by the questions given, or by each that is typed."""
    from csr_hf.plumbing.atomic import check_no_folder, check_writable
    from csr_hf.runs.gallery import write_gallery
    from csr_hf.runs.searcher import RunSearcher

    (options,) = called.options
    if options.html:
        check_writable(options.html.parent)
        check_no_folder(options.html)
    for question in options.question:
        if not question.strip():
            raise ValueError('a question is empty. Ask in words: csr-hf search RUN "how do I ...".')
    answers: list[tuple[str, list[Hit], float]] = []
    reasons: list[list[Match]] = []
    steer = _read_steer(options)
    with _open_backend(options.backend, options.collection, options.run) as backend:
        searcher = RunSearcher.load(
            options.run, device=called.device, backend=backend, trust_remote_code=called.trust_remote_code
        )
        fields = searcher.find_fields(options.show)
        if not options.question and not called.quiet:
            print_line(f"{len(searcher):,} documents. Type a question; an empty line ends.")
        for question in options.question or typed_questions():
            hits, milliseconds = _answer(searcher, question, options, is_first=not answers)
            answers.append((question, hits, milliseconds))
            reasons.append(searcher.explain(question, hits, **steer) if options.why else [])
            # An answer is shown as soon as it is found; a program reads all of them at the end.
            if not called.json:
                print_hits(question, hits, fields, milliseconds, reasons[-1])
    if options.html:
        pages = [(question, hits) for question, hits, _ in answers]
        explained = reasons if options.why else None
        write_gallery(options.html, pages, explained, searcher.find_strongest, open_files=searcher.has_images)
    advice = [f"\nThe hits with images are in {options.html}"] if options.html else []
    asked = fields if options.show else None
    found = [hits_data(*answer, asked, matches) for answer, matches in zip(answers, reasons, strict=True)]
    return Report({"run": options.run, "answers": found}, advice=advice)


def _answer(
    searcher: RunSearcher, question: str, options: SearchOptions, *, is_first: bool
) -> tuple[list[Hit], float]:
    """Search for a question, and time it in milliseconds."""
    keywords: dict[str, Any] = {
        "params": _read_params(searcher, options),
        "filter": options.where,
        "query_k": options.query_k,
        **_read_steer(options),
    }
    if is_first:
        # The first search loads and compiles what all others find ready; a user asks how long a search takes.
        searcher.search(question, options.top_k, **keywords)
    began = time.perf_counter()
    hits = searcher.search(question, options.top_k, **keywords)
    return hits, 1000 * (time.perf_counter() - began)


def _read_steer(options: SearchOptions) -> Steer:
    """Return what steers the search, of what is given."""
    steer: Steer = {}
    if options.more:
        steer["more"] = dict(options.more)
    if options.without:
        steer["without"] = options.without
    if options.must:
        steer["must"] = options.must
    return steer


def _read_params(searcher: RunSearcher, options: SearchOptions) -> SearchParams:
    """Return how to search: as the recipe says, but for what is given."""
    from csr_hf.search.params import SearchParams

    usual = getattr(searcher.index, "params", SearchParams())
    given = {name: getattr(options, name) for name in ("nprobe", "recall", "candidates", "rerank")}
    changed = {name: None if value == "all" else value for name, value in given.items() if value is not None}
    return replace(usual, **changed, exact=options.exact or usual.exact)


def collection_name(folder: str | Path) -> str:
    """Name a collection like an output folder, in characters that every backend takes."""
    name = re.sub(r"[^a-z0-9_]", "_", Path(folder).resolve().name.lower())
    return (name if name[:1].isalpha() else f"c_{name}")[:63]


def _open_backend(
    url: str | None, collection: str | None, folder: str | Path
) -> AbstractContextManager[Backend | None]:
    """Open what `--backend` names; None without it. Each output folder has a collection of its own."""
    if url is None:
        return nullcontext()
    from csr_hf.backends import open_backend

    return open_backend(url, collection or collection_name(folder), api_key=os.environ.get("CSR_HF_BACKEND_API_KEY"))
