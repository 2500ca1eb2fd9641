"""The encoder that users meet: made of a name, fitted, loaded, moved, saved and shared."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.codes import head_fingerprint
from csr_hf.embedding.backbone import Backbone, check_width
from csr_hf.embedding.loading import load_backbone_of
from csr_hf.embedding.taking import take_backbone
from csr_hf.encoding import HeadEncoder
from csr_hf.heads import load_head
from csr_hf.repository import is_hub_id, open_repository
from csr_hf.runs.folder import LATENTS, RunFolder

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer, SparseEncoder

    from csr_hf.coding.coder import Coder
    from csr_hf.explain.latents import Latents
    from csr_hf.explain.why import Match
    from csr_hf.modeling_csr import CSRModel
    from csr_hf.publishing.export import Loaded
    from csr_hf.publishing.layouts import Layout
    from csr_hf.search_index import SearchIndex

logger = logging.getLogger(__name__)


class CSREncoder(HeadEncoder):
    """A frozen backbone followed by a CSR head, with the habits of a SentenceTransformer.

    Without a head it is not fitted: `fit` trains one, and until then `embed` works, and whatever encodes says so. A
    head whose config records no settings of its backbone gets those of this one.

    Args:
        backbone: Hub id or folder of a frozen model, a SentenceTransformer, or what `load_backbone` returns.
        head: the CSR head, trained on the backbone's embeddings. None: `fit` makes it.
        k: active latents of a code; default 32, with a head the head's own. A head that is given takes it over.
        hidden_dim: latents that `fit` gives a head: a number, or a multiple of the embeddings' width such as "4x".
        **options: of `load_backbone` for a backbone by name: `device`, `revision`, `token`, `trust_remote_code`, and
            settings such as `prompts`; for a SentenceTransformer `device` and settings.

    Raises:
        ValueError: if the backbone is not found, its width is not the head's `input_dim`, `head` is no CSRModel, or
            `k` or `hidden_dim` is out of range.
    """

    def __init__(
        self,
        backbone: str | Path | SentenceTransformer | Backbone,
        head: CSRModel | None = None,
        k: int | None = None,
        *,
        hidden_dim: int | str = "4x",
        **options: Any,
    ) -> None:
        self.backbone = take_backbone(backbone, **options)
        self.hidden_dim = hidden_dim
        self._k = 32 if k is None else k
        self._head: CSRModel | None = None
        self._name: str | None = None
        self._run: Path | None = None
        self._folder: Path | None = None
        self._latents: tuple[tuple[Any, ...], Latents] | None = None
        if head is None:
            self._check_sizes()
            return
        if not hasattr(head, "config"):
            raise ValueError(
                f"`head` ({head!r:.80}) is no CSRModel. CSREncoder.from_pretrained loads one by its name."
            )
        if k is not None:
            head.config.k = k
        self._take_head(head)

    def __repr__(self) -> str:
        if self._head is None:
            return f"CSREncoder({self.backbone.name}, k={self._k}, not fitted)"
        config = self._head.config
        sizes = f"{config.input_dim} -> {config.hidden_dim} latents, k={config.k}"
        return f"CSREncoder({self.backbone.name}, {sizes}, on {self.device})"

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        token: str | bool | None = None,
        trust_remote_code: bool = False,
        **settings: Any,
    ) -> CSREncoder:
        """Load a head and its backbone: the one packed in the head's repository, else the one its config names.

        Args:
            name_or_path: a folder that `fit`, `csr-hf run`, `csr-hf export` or `save_pretrained` wrote, a Hub id, or a
                SparseEncoder of sentence-transformers whose modules end with a `SparseAutoEncoder`.
            revision: branch, tag or commit of a Hub repository; all files are read at one commit.
            device: for backbone and head; default the best available.
            token: for a private repository; default the one of `hf auth login` or of HF_TOKEN.
            trust_remote_code: run code of the backbone's repository. No config can turn this on, only the caller.
            **settings: of the backbone, in place of those that the head's config records: `prompts`,
                `max_seq_length`, `truncate_dim`, `dtype`, `model_kwargs`, `processor_kwargs`, `similarity`.

        Raises:
            ValueError: if there is no such repository or no permission to read it, its files are damaged or point
                outside of it, its config names no backbone or a wrong setting, or the backbone's width differs.
        """
        repository = open_repository(name_or_path, revision=revision, token=token)
        head = load_head(repository)
        backbone = load_backbone_of(
            repository, head, device=device, token=token, trust_remote_code=trust_remote_code, **settings
        )
        head.to(backbone.model.device)  # type: ignore[arg-type]
        encoder = cls(backbone, head)
        encoder._name, encoder._folder = repository.name, repository.folder
        folders = [Path(name_or_path), Path(name_or_path).parent]
        own = [each for each in folders if RunFolder.of(each).is_run and repository.folder == RunFolder.of(each).model]
        encoder._run = own[0] if own else None
        return encoder

    @classmethod
    def from_sparse_encoder(cls, model: SparseEncoder) -> CSREncoder:
        """Make an encoder of a SparseEncoder in memory, whose modules it shares, but for the head, which is copied.

        Args:
            model: ends with one `SparseAutoEncoder`, and perhaps a `Normalize`.

        Raises:
            ValueError: if it has no such module, several, or one that normalizes its inputs.
        """
        from csr_hf.publishing.sentence_transformers import read_sparse_encoder

        return cls(*read_sparse_encoder(model))

    def to_sparse_encoder(self) -> SparseEncoder:
        """Make a SparseEncoder of sentence-transformers, in memory, with the codes of `encode`.

        It shares the backbone's modules. Where the backbone compares by cosine, its rows have unit norm.
        """
        from csr_hf.publishing.sentence_transformers import make_sparse_encoder

        return make_sparse_encoder(self.backbone, self.head)

    def fit(
        self,
        inputs: Any,
        *,
        output_dir: str | Path = "runs/csr",
        recipe: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> CSREncoder:
        """Train a head, measure it, and index what it was trained on: a run, as `csr-hf run` makes it.

        The same call again goes on where an earlier one stopped, and takes what is done as it is. A head that the
        encoder has is left as it is, and a new one is trained; to go on from it, pass its folder as
        `recipe={"model": {"init": folder}}` and another `output_dir`.

        Args:
            inputs: what to learn from: texts, pairs of a question and its answer, rows as mappings, a data set or
                table with columns named like roles (`text`, or `anchor` and `positive`), or a file or Hub id.
            output_dir: folder of the run: head, figures, index, recipe.
            recipe: sections of a recipe, such as `{"training": {"max_steps": 500}, "data": {"held_out": 0.2}}`; they
                win over `k` and `hidden_dim`.
            overwrite: start over: remove what the folder holds of a run, whatever it is.

        Returns:
            This encoder, fitted.

        Raises:
            ValueError: for data that cannot be read or is too little, a wrong setting, or a folder that holds another
                run or is in use; nothing is written then.
        """
        from csr_hf.runs.fitting import fit

        content = dict(recipe or {})
        content["model"] = {"k": self.k, "hidden_dim": self.hidden_dim, **(content.get("model") or {})}
        content["output_dir"] = str(output_dir)
        fit(self.backbone, inputs, content, overwrite=overwrite)
        folder = RunFolder.of(output_dir)
        head = load_head(open_repository(folder.model))
        self._take_head(head.to(self.backbone.model.device))  # type: ignore[arg-type]
        self._run, self._name, self._folder = folder.path, None, None
        return self

    def build_index(self, texts: Any, **options: Any) -> SearchIndex:
        """Embed and index documents; options as for `SearchIndex.build`."""
        from csr_hf.search_index import SearchIndex

        return SearchIndex.build(self, texts, **options)

    def explain(self, query: Any, document: Any, *, coder: Coder | None = None) -> Match:
        """Split the score of a query and a document into what each latent of the document adds; `print` shows it.

        Latents have the names that `csr-hf explain` gave them, where it did.

        Args:
            query: a text, an image, or an embedding of shape (input_dim,), less the mean of its modality.
            document: the same, or its code, as `SparseCodes` or `PackedCodes` of one row.
            coder: encodes the document, perhaps with a residual, whose share is then one more.

        Raises:
            ValueError: if it is not fitted, or as `explain_match` does.
        """
        from csr_hf.explain.why import explain_match

        return explain_match(self, query, document, coder=coder, latents=self.latents)

    @property
    def latents(self) -> Latents | None:
        """Names of the latents, from `latents.json` of the run or beside the head; None where there is none."""
        from csr_hf.explain.latents import Latents

        places = [] if self._run is None else [RunFolder.of(self._run).latents]
        places += [self._folder / LATENTS] if self._folder is not None else []
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            return None
        version = found, found.stat().st_mtime_ns, self.head
        if self._latents is None or self._latents[0] != version:
            self._latents = version, Latents.load(found, head_fingerprint(self.head))
        return self._latents[1]

    @property
    def device(self) -> torch.device:
        """Where the backbone is, and the head with it."""
        return self.backbone.model.device

    def to(self, target: Any) -> CSREncoder:
        """Move backbone and head to a device, or convert them to a float type; return this encoder."""
        self.backbone.to(target)
        if self._head is not None:
            self._head.to(target)
        return self

    def half(self) -> CSREncoder:
        """Convert backbone and head to float16; return this encoder."""
        import torch

        return self.to(torch.float16)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        layout: Layout | None = None,
        base_model: str | None = None,
        license: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write backbone and head as one folder, with a model card; `from_pretrained` and SparseEncoder load it.

        Args:
            folder: where to write, whole or not at all; an earlier export of the same head is replaced.
            layout: "full" with the backbone, "head" without; default full, and head above 1 GB of backbone weights.
            base_model: Hub id of the backbone; default what the head's config or the backbone says.
            license: of the card; default the backbone's.
            overwrite: also replace an export of another head, or with a card that a person changed.

        Raises:
            ValueError: if it is not fitted, `folder` holds something else, or the layout cannot hold the backbone.
        """
        from csr_hf.publishing.export import export
        from csr_hf.publishing.model_card import CardOptions

        card = CardOptions(license=license)
        done = export(self._loaded(), folder, layout=layout, base_model=base_model, card=card, overwrite=overwrite)
        for note in done.notes:
            logger.warning("%s", note)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        create_pr: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        layout: Layout | None = None,
        license: str | None = None,
    ) -> str:
        """Publish backbone and head with a model card, as one commit or not at all; return the address.

        The card quotes what the run of `fit` measured. One on the Hub that a person wrote or changed is not replaced.

        Args:
            repo_id: `user/name`; created if it is missing.
            private: create it as a private repository.
            create_pr: open a pull request instead of committing.
            revision: branch to commit to, created if missing; default the main branch.
            token: default the one of `hf auth login` or of HF_TOKEN.
            layout: as for `save_pretrained`.
            license: as for `save_pretrained`.

        Raises:
            ValueError: if it is not fitted, the repository holds another model or a changed card, or the token may not
                write there.
            OSError: if the upload was interrupted.
        """
        from csr_hf.publishing.export import export
        from csr_hf.publishing.hub import push
        from csr_hf.publishing.model_card import CardOptions

        with tempfile.TemporaryDirectory() as temporary:
            card = CardOptions(repo_id=repo_id, license=license)
            done = export(self._loaded(), Path(temporary, "model"), layout=layout, card=card)
            for note in done.notes:
                logger.warning("%s", note)
            where = {"private": private, "create_pr": create_pr, "revision": revision, "token": token}
            return push(done.folder, repo_id, **where).url  # type: ignore[arg-type]

    def _loaded(self) -> Loaded:
        """Name the backbone in the head's config, where that says nothing, and return both for an export."""
        from csr_hf.publishing.export import Loaded

        config, backbone = self.head.config, self.backbone
        if config.base_model_name_or_path is None and (is_hub_id(backbone.name) or Path(backbone.name).exists()):
            config.base_model_name_or_path, config.base_model_revision = backbone.name, backbone.revision
        return Loaded(backbone, self.head, self._run)

    def _check_sizes(self) -> None:
        """Check the sizes of the head that `fit` will make."""
        from csr_hf.configuration_csr import CSRConfig
        from csr_hf.runs.recipe import ModelArguments

        dim = self.backbone.dim
        CSRConfig(input_dim=dim, hidden_dim=ModelArguments(hidden_dim=self.hidden_dim).hidden_dim_for(dim), k=self._k)

    def _take_head(self, head: CSRModel) -> None:
        check_width(self.backbone, head)
        self._head = head.eval()
        settings = self.backbone.settings.to_record()
        if not head.config.base_model_settings:
            head.config.base_model_settings = settings
        elif head.config.base_model_settings != settings:
            logger.warning(
                "the head was trained with the backbone's settings %s, this backbone has %s",
                head.config.base_model_settings,
                settings,
            )
