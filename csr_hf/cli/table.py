"""The commands of `csr-hf`: what each is for, what it takes, and examples. Nothing heavy is imported here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        summary: for `csr-hf --help`.
        call: its function, as `module:function` below `csr_hf.cli`.
        kinds: classes of its settings, as `module:class` below `csr_hf`.
        takes_recipe: whether keys of a recipe are flags too.
        examples: command lines.
        embeds: whether it may run code of the backbone's repository, where the user says so.
    """

    summary: str
    call: str
    kinds: tuple[str, ...]
    takes_recipe: bool
    examples: str
    embeds: bool = True

    def load_kinds(self) -> list[type]:
        """Import the classes of the settings."""
        return [_load(place) for place in self.kinds]

    def load_call(self) -> Any:
        """Import the function."""
        return _load(f"cli.{self.call}")


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"csr_hf.{module}"), name)


COMMANDS = {
    "run": Command(
        "embed, train, evaluate and index, as a recipe says",
        "running:run",
        ("cli.options:TrainOptions",),
        takes_recipe=True,
        examples="""
  csr-hf run recipes/quickstart.yaml
  csr-hf run recipes/quickstart.yaml --limit 2000 --output-dir runs/small
  csr-hf run --corpus docs.parquet --text-column body --output-dir runs/docs
  csr-hf run recipes/quickstart.yaml --data.source faq.csv --data.columns '{anchor: question, positive: answer}'
""",
    ),
    "embed": Command(
        "embed the texts of a recipe into the cache",
        "running:embed",
        ("cli.options:RecipeOptions",),
        takes_recipe=True,
        examples="""
  csr-hf embed recipes/quickstart.yaml
  csr-hf embed recipes/quickstart.yaml --limit 1000 --backbone.batch_size 64
""",
    ),
    "train": Command(
        "train a head (embeds first if need be)",
        "running:train",
        ("cli.options:TrainOptions",),
        takes_recipe=True,
        examples="""
  csr-hf train recipes/quickstart.yaml --k 16
  csr-hf train recipes/quickstart.yaml --overwrite
  csr-hf train --corpus docs.parquet --text-column body
  csr-hf train --corpus docs.parquet --text-column body --head user/minilm-csr
  torchrun --nproc_per_node 2 -m csr_hf.cli train recipes/quickstart.yaml
""",
    ),
    "sweep": Command(
        "train and measure a head for every combination",
        "running:sweep",
        ("cli.options:SweepOptions", "runs.arguments:SweepArguments"),
        takes_recipe=True,
        examples="""
  csr-hf sweep recipes/quickstart.yaml --hidden-dim 1x,2x,4x,8x --output-dir runs/widths
  csr-hf sweep recipes/quickstart.yaml --k 8,16,32 --max-steps 250,1000 --output-dir runs/lengths
  csr-hf sweep recipes/quickstart.yaml --preset csr,csrv2,csr_hf --k 4,8,16,32,64 --output-dir runs/presets
  csr-hf sweep recipes/quickstart.yaml --variant training.balance=0 --variant training.balance=2,training.k_start=64
""",
    ),
    "evaluate": Command(
        "measure a head and its baselines on MTEB",
        "running:evaluate",
        ("cli.options:EvaluateOptions", "runs.arguments:MTEBArguments"),
        takes_recipe=False,
        examples="""
  csr-hf evaluate runs/quickstart --tasks SciFact,STSBenchmark --bytes 16,24,48,96
  csr-hf evaluate runs/quickstart --tasks Banking77Classification --k 8,32 --baselines pca,pq
  csr-hf evaluate user/minilm-csr --tasks MTOPIntentClassification:en:test
""",
    ),
    "encode": Command(
        "encode texts into a file of sparse codes",
        "searching:encode",
        ("cli.options:EncodeOptions",),
        takes_recipe=False,
        examples="""
  csr-hf encode runs/quickstart/model texts.txt --output codes.safetensors
  csr-hf encode runs/quickstart/model faq.csv --column answer --k 16 --output codes.safetensors
  csr-hf encode runs/quickstart/model texts.txt --bits 4 --output packed.safetensors
  csr-hf encode runs/quickstart/model texts.txt --bytes 48 --output packed.safetensors
  csr-hf encode runs/quickstart texts.txt --bytes 48 --coder coder.safetensors --output compact.safetensors
""",
    ),
    "index": Command(
        "index a corpus with a head that was trained before",
        "searching:index",
        ("cli.options:IndexOptions",),
        takes_recipe=True,
        examples="""
  csr-hf index --corpus docs.parquet --text-column body --head runs/quickstart --output-dir runs/docs
  csr-hf index --corpus docs.parquet --head user/minilm-csr --index.copies '[float16]'
  csr-hf index --corpus shop.csv --head user/minilm-csr --id-column sku --keep price,lang --output-dir runs/shop
  csr-hf index --corpus docs.parquet --head user/minilm-csr --output-dir runs/docs --backend milvus-lite:./docs.db
  csr-hf index --corpus photos --head runs/photos --output-dir runs/more --skip-bad
""",
    ),
    "add": Command(
        "add documents to the index of a run",
        "searching:add",
        ("cli.options:AddOptions",),
        takes_recipe=False,
        examples="""
  csr-hf add runs/docs more.parquet
  csr-hf add runs/shop changed.csv --replace
""",
    ),
    "delete": Command(
        "delete documents from the index of a run",
        "searching:delete",
        ("cli.options:DeleteOptions",),
        takes_recipe=False,
        examples="""
  csr-hf delete runs/shop --ids a17,a18
  csr-hf delete runs/shop --where 'price > 100 or lang == None'
""",
        embeds=False,
    ),
    "search": Command(
        "search the documents of a finished run",
        "searching:search",
        ("cli.options:SearchOptions",),
        takes_recipe=False,
        examples="""
  csr-hf search runs/quickstart "how do I read a file line by line"
  csr-hf search runs/quickstart "invert a matrix" --top-k 3 --candidates 300
  csr-hf search runs/quickstart
  csr-hf search runs/docs "how are they installed" --backend milvus-lite:./docs.db
  csr-hf search runs/shop "a jacket" --where 'price < 100' --backend milvus-lite:./docs.db
  csr-hf search runs/faq "how do I start" --show question,answer
  csr-hf search runs/docs "how do I start" --json
  csr-hf search runs/shop "a warm jacket" --where 'price < 100 and lang == "en"' --show sku,price
  csr-hf search runs/photos "a red bicycle" --html found.html
  csr-hf search runs/quickstart "sort a list" --why
  csr-hf search runs/quickstart "sort a list" --without "numpy arrays" --more 12=0.3
""",
    ),
    "explain": Command(
        "name the latents of a run, and say what the names predict",
        "explaining:explain",
        ("cli.options:ExplainOptions",),
        takes_recipe=False,
        examples="""
  csr-hf explain runs/quickstart
  csr-hf explain runs/quickstart --show 100 --share 0.1,0.25,1
  csr-hf explain runs/quickstart --other runs/seed1 --json
""",
    ),
    "demo": Command(
        "open a page to try the search of a run",
        "trying:demo",
        ("cli.options:DemoOptions",),
        takes_recipe=False,
        examples="""
  csr-hf demo runs/quickstart
  csr-hf demo runs/quickstart --port 8000 --no-browser
""",
    ),
    "info": Command(
        "describe a run, model, index, cache or file of codes",
        "inspecting:info",
        ("cli.options:InfoOptions",),
        takes_recipe=False,
        examples="""
  csr-hf info runs/quickstart
  csr-hf info runs/quickstart/model
  csr-hf info codes.safetensors
""",
        embeds=False,
    ),
    "export": Command(
        "write a head as a folder that every library loads",
        "publishing:export",
        ("cli.publishing_options:ExportOptions",),
        takes_recipe=False,
        examples="""
  csr-hf export runs/quickstart exported
  csr-hf export runs/quickstart exported --layout head
  python -c "from sentence_transformers import SparseEncoder; print(SparseEncoder('exported').encode(['a text']))"
""",
        embeds=False,
    ),
    "push": Command(
        "publish a head on the Hub, as one commit",
        "publishing:push",
        ("cli.publishing_options:PushOptions",),
        takes_recipe=False,
        examples="""
  csr-hf push runs/quickstart user/minilm-csr
  csr-hf push runs/quickstart user/minilm-csr --private --license apache-2.0
  csr-hf push runs/quickstart user/minilm-csr --create-pr
  csr-hf push runs/quickstart --space user/python-docs
  csr-hf push runs/quickstart user/minilm-csr --revision experiment --layout head
""",
        embeds=False,
    ),
    "card": Command(
        "write the model card of a run, and the files it quotes",
        "publishing:card",
        ("cli.publishing_options:CardFlags",),
        takes_recipe=False,
        examples="""
  csr-hf card runs/quickstart card --repo-id user/minilm-csr
  csr-hf card runs/quickstart card --repo-id user/minilm-csr --license apache-2.0 --dataset user/questions
""",
        embeds=False,
    ),
    "import": Command(
        "turn a head that others saved into one of csr_hf",
        "publishing:import_head",
        ("cli.publishing_options:ImportOptions",),
        takes_recipe=False,
        examples="""
  csr-hf import user/a-sparse-encoder imported
  csr-hf import a-sparse-encoder/3_SparseAutoEncoder imported --base-model mixedbread-ai/mxbai-embed-large-v1
  csr-hf import ckpt/CSR_topk_32/checkpoint_9.pth imported
  csr-hf import checkpoint.safetensors imported --k 32
""",
        embeds=False,
    ),
    "cache": Command(
        "list the embeddings that are kept, and remove them",
        "inspecting:cache",
        ("cli.options:CacheOptions",),
        takes_recipe=False,
        examples="""
  csr-hf cache
  csr-hf cache --clear --older-than 30d
  csr-hf cache --clear 0123456789abcdef01234567
""",
        embeds=False,
    ),
    "glossary": Command(
        "explain the words that tables and flags use",
        "inspecting:glossary",
        ("cli.options:GlossaryOptions",),
        takes_recipe=False,
        examples="""
  csr-hf glossary
  csr-hf glossary k "explained variance"
""",
        embeds=False,
    ),
    "completion": Command(
        "print a script that completes commands and flags in bash or zsh",
        "inspecting:completion",
        ("cli.options:CompletionOptions",),
        takes_recipe=False,
        examples="""
  source <(csr-hf completion bash)
  csr-hf completion bash > ~/.local/share/bash-completion/completions/csr-hf
  csr-hf completion zsh > "${fpath[1]}/_csr-hf"
""",
        embeds=False,
    ),
}
