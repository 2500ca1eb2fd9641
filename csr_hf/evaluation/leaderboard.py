"""What the MTEB leaderboard asks for: a model's description as code, and result files in its layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.evaluation.methods import CSRMethod
from csr_hf.evaluation.mteb import EmbeddingSource, MTEBEncoder
from csr_hf.plumbing.atomic import written_whole

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.models.model_meta import ModelMeta

    from csr_hf.encoder import CSREncoder

_CITATION = """@inproceedings{wen2025beyond,
  title={Beyond Matryoshka: Revisiting Sparse Coding for Adaptive Representation},
  author={Wen, Tiansheng and Wang, Yifei and Zeng, Zequn and Peng, Zhong and Su, Yudi and Liu, Xinyang and Chen, Bo and Liu, Hongwei and Jegelka, Stefanie and You, Chenyu},
  booktitle={International Conference on Machine Learning},
  year={2025}
}"""  # noqa: E501
_LANGUAGES = {"en": "eng-Latn", "de": "deu-Latn", "fr": "fra-Latn", "es": "spa-Latn", "zh": "zho-Hans"}


def published_meta(repo_id: str, encoder: CSREncoder, k: int, trained_on: set[str] | None = None) -> ModelMeta:
    """The description of a head on the Hub, `layout="full"`, as mteb loads it: through its own SparseEncoder wrapper.

    `meta.to_python()` is the file that a pull request to mteb needs.

    Args:
        repo_id: `user/name`.
        encoder: the same model, loaded.
        k: active latents; other than the head's they become part of the experiment's name.
        trained_on: tasks whose data the head was trained on, in mteb's names, so that contamination shows.

    Raises:
        ValueError: if the repository is not on the Hub, or holds no backbone.
    """
    from huggingface_hub import HfApi
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.models.sentence_transformer_wrapper import SparseEncoderWrapper

    try:
        info = HfApi().model_info(repo_id)
    # No such name, no right to it, no connection: in each case it cannot be submitted.
    except Exception as error:
        raise ValueError(
            f"{repo_id} is not on the Hub, or the Hub does not answer. Push it first: `csr-hf push RUN user/name`."
        ) from error
    if "modules.json" not in {file.rfilename for file in info.siblings or []}:
        raise ValueError(f"{repo_id} holds the head alone. Push it with --layout full: the leaderboard loads that.")
    card = info.card_data.to_dict() if info.card_data else {}
    languages = card.get("language") or []
    languages = [languages] if isinstance(languages, str) else languages
    modules = [*encoder.backbone.model.parameters(), *encoder.head.parameters()]
    is_default = k == encoder.head.config.k
    return ModelMeta(
        loader=SparseEncoderWrapper,
        loader_kwargs={} if is_default else {"max_active_dims": k},
        name=repo_id,
        revision=info.sha,
        release_date=info.created_at.date().isoformat() if info.created_at else None,
        languages=[_LANGUAGES[language] for language in languages if language in _LANGUAGES] or None,
        n_parameters=sum(parameter.numel() for parameter in modules),
        n_embedding_parameters=None,
        memory_usage_mb=round(sum(parameter.numel() * parameter.element_size() for parameter in modules) / 2**20),
        max_tokens=encoder.backbone.model.max_seq_length,
        embed_dim=encoder.head.config.hidden_dim,
        license=card.get("license"),
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["Sentence Transformers", "PyTorch", "safetensors"],
        reference=f"https://huggingface.co/{repo_id}",
        similarity_fn_name=ScoringFunction.DOT_PRODUCT,
        use_instructions=bool(encoder.backbone.prompts and any(encoder.backbone.prompts.values())),
        training_datasets=trained_on,
        adapted_from=encoder.head.config.base_model_name_or_path,
        model_type=["sparse"],
        citation=_CITATION,
        experiment_kwargs=None if is_default else {"max_active_dims": k},
    )


def write_submission(
    folder: str | Path,
    repo_id: str,
    encoder: CSREncoder,
    source: EmbeddingSource,
    tasks: Sequence[AbsTask],
    ks: Sequence[int],
    *,
    trained_on: set[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Evaluate a published head as the leaderboard's own loader would, and lay the results out as it wants them.

    Args:
        folder: gets `results/<user>__<name>/<commit>/[experiments/max_active_dims_<k>/]<task>.json` and `<name>.py`.
        repo_id: `user/name`.
        encoder: the same model, loaded.
        source: the backbone's embeddings.
        tasks: of `load_tasks`.
        ks: active latents.
        trained_on: as for `published_meta`.
        say: told what happens.

    Returns:
        The files written.

    Raises:
        ValueError: as `published_meta` does.
    """
    import mteb

    folder = Path(folder)
    cache = mteb.ResultCache(folder)
    options: dict[str, Any] = {"cache": cache, "co2_tracker": False, "show_progress_bar": False}
    for k in ks:
        meta = published_meta(repo_id, encoder, k, trained_on)
        # Plain codes on both sides: what SparseEncoder gives to those who check the scores.
        model = MTEBEncoder(source, CSRMethod(encoder.head, k, refine=False), meta)
        for task in tasks:
            say(f"{task.metadata.name} at k={k}, as {meta.model_name_with_experiment}")
            mteb.evaluate(model, task, encode_kwargs={"batch_size": 1024, "show_progress_bar": False}, **options)
    description = folder / f"{repo_id.rsplit('/', 1)[-1].replace('-', '_').replace('.', '_')}.py"
    with written_whole(description) as temporary:
        temporary.write_text(published_meta(repo_id, encoder, encoder.head.config.k, trained_on).to_python() + "\n")
    return [*sorted(folder.rglob("*.json")), description]
