"""A tiny model of every kind of backbone: made from its real class, with random weights, in a second or less."""

import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    GemmaTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from tests.helpers.clip import save_clip

WIDTH = 32
LATIN = "abcdefghijklmnopqrstuvwxyz0123456789.,:;?!'-"
CYRILLIC, CHINESE = "абвгдежзийклмнопрстуфхцчшщъыьэюя", "猫狗鸟红绿蓝大小跑看水山的是在一二三"
INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
REMOTE_CODE = '''
import torch
from sentence_transformers.base.modules import Module


class Doubled(Module):
    """Doubles the first half of an embedding: a module that only its own repository has."""

    def forward(self, features):
        rows = features["sentence_embedding"]
        scale = torch.ones(rows.shape[-1], device=rows.device)
        scale[: rows.shape[-1] // 2] = 2
        features["sentence_embedding"] = rows * scale
        return features

    def save(self, output_path, *args, **kwargs):
        pass

    @classmethod
    def load(cls, *args, **kwargs):
        return cls()
'''


@dataclass(frozen=True)
class Kind:
    """A kind of backbone, and how a user names it."""

    save: Callable[[Path], Any]
    """Writes a tiny model into a folder."""
    examples: tuple[str, ...]
    """Well-known models of the kind."""
    dim: int = WIDTH
    """Width of the embeddings with `settings`."""
    modalities: tuple[str, ...] = ("text",)
    settings: dict[str, Any] = field(default_factory=dict)
    """What a user passes: fields of `BackboneSettings`."""
    trust_remote_code: bool = False
    similarity: str = "cosine"
    """What its embeddings are compared by."""
    letters: str = LATIN
    tolerance: float = 1e-6
    """How far two ways to the same embedding may differ."""
    is_half: bool = False
    """Whether its weights are of 16 bits."""

    def sentences(self, n: int, seed: int = 0) -> list[str]:
        """Make n sentences of words in the letters of the tokenizer."""
        choice = random.Random(seed)
        words = ["".join(choice.choices(self.letters[:30], k=choice.randint(2, 6))) for _ in range(60)]
        return [" ".join(choice.choices(words, k=choice.randint(3, 8))) for _ in range(n)]

    def pairs(self, n: int, seed: int = 0) -> list[dict[str, str]]:
        """Make n pairs of a question and the text that answers it, which share words."""
        texts = self.sentences(n, seed)
        return [{"anchor": " ".join(text.split()[:3]), "positive": text} for text in texts]


def _save(folder, modules, **settings):
    SentenceTransformer(modules=modules, device="cpu", **settings).save(str(folder), create_model_card=False)


def _bert_tokenizer(letters=LATIN):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}, model_max_length=64)


def _bert(letters=LATIN, dtype=torch.float32, seed=0):
    """Make a Transformer module around a BERT of two layers."""
    tokenizer = _bert_tokenizer(letters)
    torch.manual_seed(seed)
    size = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.3, **size)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        BertModel(config).to(dtype).save_pretrained(folder)
        return Transformer(folder)


def _save_bert(folder, **options):
    _save(folder, [_bert(**options), Pooling(WIDTH, "mean"), Normalize()])


def _save_e5(folder):
    prompts = {"query": "query: ", "passage": "passage: "}
    _save(folder, [_bert(), Pooling(WIDTH, "mean"), Normalize()], prompts=prompts)
    # As its authors wrote it: sentence-transformers would add an empty prompt for documents.
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompts": prompts}))


def _save_instructed(folder):
    prompts = {"web_search_query": INSTRUCTION, "sts_query": "Instruct: Retrieve semantically similar text\nQuery: "}
    _save(folder, [_bert(), Pooling(WIDTH, "cls"), Normalize()], prompts=prompts)


def _save_dot(folder):
    # The last layer makes rows of equal norms, whose dot products would be cosines; around their mean norms differ.
    modules = [_bert(), Pooling(WIDTH, "cls")]
    mean = SentenceTransformer(modules=modules, device="cpu").encode(["a cat", "two dogs", "no"]).mean(axis=0)
    shift = Dense(WIDTH, WIDTH, activation_function=torch.nn.Identity())
    shift.load_state_dict({"linear.weight": torch.eye(WIDTH), "linear.bias": -torch.from_numpy(mean)})
    _save(folder, [*modules, shift], similarity_fn_name="dot")


def _save_router(folder):
    towers = [[_bert(seed=seed), Pooling(WIDTH, "mean")] for seed in (1, 2)]
    _save(folder, [Router.for_query_document(query_modules=towers[0], document_modules=towers[1]), Normalize()])


def _save_static(folder):
    torch.manual_seed(0)
    _save(folder, [StaticEmbedding(_bert_tokenizer(), embedding_dim=WIDTH)])


def _save_dense(folder):
    torch.manual_seed(0)
    _save(folder, [_bert(), Pooling(WIDTH, "mean"), Dense(WIDTH, 24, activation_function=torch.nn.Tanh())])


def _save_siglip(folder):
    """SigLIP with the tokenizer of its second edition; that of the first needs another package."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LATIN, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=48, padding_side="right")
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    size = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        "vocab_size": len(tokens),
        "max_position_embeddings": 48,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    torch.manual_seed(0)
    config = SiglipConfig(text_config={**size, **text}, vision_config={**size, "image_size": 32, "patch_size": 8})
    SiglipModel(config).save_pretrained(folder)
    SiglipProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)


def _save_open_clip(folder):
    """CLIP as laion's: exact GELU, other widths in both towers, a projection of each."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], pad_token="!", model_max_length=32)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    size = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu", "projection_dim": 24}
    last = len(tokens) - 1
    text = {"vocab_size": len(tokens), "max_position_embeddings": 32, "hidden_size": 32, "intermediate_size": 64}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**size, **text, "bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": 0},
        vision_config={**size, "hidden_size": 48, "intermediate_size": 96, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)


def _save_remote(folder):
    _save(folder, [_bert(), Pooling(WIDTH, "mean")])
    (folder / "custom_st.py").write_text(REMOTE_CODE)
    (folder / "2_Doubled").mkdir()
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Doubled", "type": "custom_st.Doubled"})
    (folder / "modules.json").write_text(json.dumps(modules, indent=2))


def _save_decoder(folder):
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*letters, "<|endoftext|>"])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=128, padding_side="left")
    torch.manual_seed(0)
    size = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        initializer_range=0.3,
        eos_token_id=len(letters),
        pad_token_id=len(letters),
        **size,
    )
    with tempfile.TemporaryDirectory() as parts:
        tokenizer.save_pretrained(parts)
        Qwen3Model(config).save_pretrained(parts)
        modules = [Transformer(parts), Pooling(WIDTH, "lasttoken"), Normalize()]
    _save(folder, modules, prompts={"query": INSTRUCTION, "document": ""})


KINDS: dict[str, Kind] = {
    "bert": Kind(_save_bert, ("sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5")),
    "e5": Kind(
        _save_e5,
        ("intfloat/e5-base-v2", "intfloat/multilingual-e5-large"),
        settings={"prompts": {"query": "query", "document": "passage"}},
    ),
    "instructed": Kind(
        _save_instructed,
        ("intfloat/multilingual-e5-large-instruct",),
        settings={"prompts": {"query": "web_search_query"}},
    ),
    "dot": Kind(_save_dot, ("sentence-transformers/multi-qa-mpnet-base-dot-v1",), similarity="dot"),
    "router": Kind(_save_router, ("Router.for_query_document",)),
    "static": Kind(_save_static, ("sentence-transformers/static-retrieval-mrl-en-v1", "minishlab/potion-base-8M")),
    "matryoshka": Kind(
        _save_bert,
        ("mixedbread-ai/mxbai-embed-large-v1", "Snowflake/snowflake-arctic-embed-m-v1.5"),
        16,
        settings={"truncate_dim": 16},
    ),
    "dense": Kind(_save_dense, ("sentence-transformers/LaBSE", "sentence-transformers/gtr-t5-base"), 24),
    "bfloat16": Kind(
        lambda folder: _save_bert(folder, dtype=torch.bfloat16),
        ("Qwen/Qwen3-Embedding-0.6B",),
        tolerance=2e-3,
        is_half=True,
    ),
    "float16": Kind(
        lambda folder: _save_bert(folder, dtype=torch.float16), ("thenlper/gte-base",), tolerance=2e-3, is_half=True
    ),
    "clip": Kind(save_clip, ("openai/clip-vit-base-patch32",), 24, ("image", "text")),
    "siglip": Kind(_save_siglip, ("google/siglip2-base-patch16-224",), WIDTH, ("image", "text")),
    "open_clip": Kind(_save_open_clip, ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K",), 24, ("image", "text")),
    "remote_code": Kind(_save_remote, ("jinaai/jina-embeddings-v3", "jinaai/jina-clip-v2"), trust_remote_code=True),
    "other_letters": Kind(
        lambda folder: _save_bert(folder, letters=CYRILLIC + CHINESE),
        ("cointegrated/rubert-tiny2", "shibing624/text2vec-base-chinese"),
        letters=CYRILLIC[:20] + CHINESE,
    ),
    "decoder": Kind(_save_decoder, ("Qwen/Qwen3-Embedding-0.6B", "intfloat/e5-mistral-7b-instruct")),
}


def load_stock(folder: Path, kind: Kind) -> SentenceTransformer:
    """Load a model as a user of sentence-transformers alone would, with the settings of the kind."""
    model = SentenceTransformer(
        str(folder),
        device="cpu",
        trust_remote_code=kind.trust_remote_code,
        truncate_dim=kind.settings.get("truncate_dim"),
    )
    chosen = kind.settings.get("prompts", {})
    model.prompts |= {task: model.prompts.get(prompt, prompt) for task, prompt in chosen.items()}
    return model
