"""Submissions to the MTEB leaderboard: a model's description as code, and result files in its layout."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_hf.evaluation.cached_backbone import CachedBackbone
from csr_hf.evaluation.csr_methods import CSRMethod
from csr_hf.evaluation.mteb import ENCODE_KWARGS, MTEBEncoder
from csr_hf.plumbing.atomic import write_whole

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.models.model_meta import ModelMeta

    from csr_hf.embedding.backbone import Backbone
    from csr_hf.modeling_csr import CSRModel

logger = logging.getLogger(__name__)

_CITATION = """@inproceedings{wen2025beyond,
  title={Beyond Matryoshka: Revisiting Sparse Coding for Adaptive Representation},
  author={Wen, Tiansheng and Wang, Yifei and Zeng, Zequn and Peng, Zhong and Su, Yudi and Liu, Xinyang and Chen, Bo and Liu, Hongwei and Jegelka, Stefanie and You, Chenyu},
  booktitle={International Conference on Machine Learning},
  year={2025}
}"""  # noqa: E501
_LANGUAGES = {"en": "eng-Latn", "de": "deu-Latn", "fr": "fra-Latn", "es": "spa-Latn", "zh": "zho-Hans"}


def published_meta(
    repo_id: str, backbone: Backbone, head: CSRModel, k: int, trained_on: set[str] | None = None
) -> ModelMeta:
    """Describe a head on the Hub, `layout="full"`, as mteb loads it: through mteb's SparseEncoder wrapper.

    `meta.to_python()` is the file that a pull request to mteb needs.

    Args:
        repo_id: `user/name`.
        backbone: of the same model, loaded.
        head: of the same model, loaded.
        k: active latents; other than the head's they become part of the experiment's name.
        trained_on: tasks whose data the head was trained on, in mteb's names, so that contamination shows.

    Raises:
        ValueError: if the repository is not on the Hub, holds no backbone, or has one that compares by distances.
    """
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.models.sentence_transformer_wrapper import SparseEncoderWrapper

    similarity = backbone.similarity_fn_name
    if similarity not in ("cosine", "dot"):
        raise ValueError(
            f"{repo_id} has a backbone that compares by {similarity} distance; codes are not searched by distances. "
            'Train a head with `backbone.similarity` "cosine" or "dot".'
        )
    info = _model_info(repo_id)
    card = info.card_data.to_dict() if info.card_data else {}
    languages = card.get("language") or []
    languages = [languages] if isinstance(languages, str) else languages
    parameters = [*backbone.model.parameters(), *head.parameters()]
    is_default = k == head.config.k
    return ModelMeta(
        loader=SparseEncoderWrapper,
        loader_kwargs={} if is_default else {"max_active_dims": k},
        name=repo_id,
        revision=info.sha,
        release_date=info.created_at.date().isoformat() if info.created_at else None,
        languages=[_LANGUAGES[language] for language in languages if language in _LANGUAGES] or None,
        n_parameters=sum(parameter.numel() for parameter in parameters),
        n_embedding_parameters=None,
        memory_usage_mb=round(sum(parameter.numel() * parameter.element_size() for parameter in parameters) / 2**20),
        max_tokens=backbone.model.max_seq_length,
        embed_dim=head.config.hidden_dim,
        license=card.get("license"),
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["Sentence Transformers", "PyTorch", "safetensors"],
        reference=f"https://huggingface.co/{repo_id}",
        # Of codes of unit norm, if the backbone compares by cosine.
        similarity_fn_name=ScoringFunction.DOT_PRODUCT,
        use_instructions=bool(backbone.prompts and any(backbone.prompts.values())),
        training_datasets=trained_on,
        adapted_from=head.config.base_model_name_or_path,
        model_type=["sparse"],
        citation=_CITATION,
        experiment_kwargs=None if is_default else {"max_active_dims": k},
    )


def write_submission(
    folder: str | Path,
    repo_id: str,
    cached: CachedBackbone,
    head: CSRModel,
    tasks: Sequence[AbsTask],
    ks: Sequence[int],
    *,
    trained_on: set[str] | None = None,
) -> list[Path]:
    """Evaluate a published head as the leaderboard's own loader would, and write the results in its layout.

    Args:
        folder: gets `results/<user>__<name>/<commit>/[experiments/max_active_dims_<k>/]<task>.json` and `<name>.py`.
        repo_id: `user/name`.
        cached: its backbone, loaded.
        head: its head, loaded.
        tasks: of `load_tasks`.
        ks: active latents.
        trained_on: tasks whose data the head was trained on, in mteb's names.

    Returns:
        The files written.

    Raises:
        ValueError: as `published_meta` does.
    """
    import mteb

    folder = Path(folder)
    options: dict[str, Any] = {"cache": mteb.ResultCache(folder), "co2_tracker": False, "show_progress_bar": False}
    for k in ks:
        meta = published_meta(repo_id, cached.backbone, head, k, trained_on)
        # Plain codes on both sides: what SparseEncoder gives to those who check the scores.
        method = CSRMethod(head, k, plain=True, similarity=cached.backbone.similarity_fn_name)
        encoder = MTEBEncoder(cached, method, meta)
        for task in tasks:
            logger.info("%s at k=%d, as %s", task.metadata.name, k, meta.model_name_with_experiment)
            mteb.evaluate(encoder, task, encode_kwargs=ENCODE_KWARGS, **options)
    description = folder / f"{repo_id.rsplit('/', 1)[-1].replace('-', '_').replace('.', '_')}.py"
    meta = published_meta(repo_id, cached.backbone, head, head.config.k, trained_on)
    with write_whole(description) as temporary:
        temporary.write_text(meta.to_python() + "\n", encoding="utf-8")
    return [*sorted(folder.rglob("*.json")), description]


def _model_info(repo_id: str) -> Any:
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo_id)
    # Whatever the cause, an unknown name, no right to read it or no connection, it cannot be submitted.
    except Exception as error:
        raise ValueError(
            f"{repo_id} is not on the Hub, or the Hub does not answer. Push it first: `csr-hf push RUN user/name`."
        ) from error
    if "modules.json" not in {file.rfilename for file in info.siblings or []}:
        raise ValueError(f"{repo_id} holds the head alone. Push it with --layout full: the leaderboard loads that.")
    return info
