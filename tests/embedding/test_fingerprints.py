import pytest
import torch
from tokenizers.normalizers import Lowercase

from csr_hf import Backbone
from csr_hf.embedding.cache import fingerprint_texts
from csr_hf.embedding.fingerprints import digest_tokenizers, digest_weights, find_tokenizers
from tests.helpers.backbones import KINDS, load_stock


def fingerprint(model):
    return Backbone(model, "tiny").fingerprint


@pytest.fixture
def load(tiny_folder):
    return lambda kind: load_stock(tiny_folder(kind), KINDS[kind])


def test_one_bit_of_one_weight_among_many_is_noticed(load):
    model = load("bert")
    model.append(torch.nn.Linear(400, 400))
    before = digest_weights(model)
    # Not one of a few thousand evenly spaced values.
    model[-1].weight.data.view(torch.int32).view(-1)[1] ^= 1
    assert digest_weights(model) != before


def test_types_and_shapes_of_weights_count(load):
    model = load("static")
    digests = {digest_weights(model)}
    weight = model[0].embedding.weight
    for changed in (weight.half(), weight.bfloat16(), weight.reshape(weight.shape[::-1])):
        model[0].embedding.weight = torch.nn.Parameter(changed, requires_grad=False)
        digests.add(digest_weights(model))
    assert len(digests) == 4


@pytest.mark.parametrize("kind", ["bert", "static", "decoder", "clip", "siglip"])
def test_another_tokenizer_is_noticed(load, kind):
    model = load(kind)
    found = Backbone(model, "tiny")
    before = found.fingerprint
    (tokenizer,) = find_tokenizers(model)
    rules = getattr(tokenizer, "backend_tokenizer", tokenizer)
    rules.normalizer = Lowercase() if type(rules.normalizer).__name__ != "Lowercase" else None
    assert fingerprint(model) != before
    if kind != "static":
        other = load(kind)[0]
        other.tokenizer.padding_side = "left" if other.tokenizer.padding_side == "right" else "right"
        # The same backbone, that has computed its fingerprint already.
        model[0].processor = other.processor
        assert found.fingerprint != before


def test_vocabulary_and_ids_of_a_tokenizer_count(load):
    tokenizer = load("bert").tokenizer
    before = digest_tokenizers([tokenizer])
    tokenizer.add_tokens(["zebra"])
    assert digest_tokenizers([tokenizer]) != before


def test_what_a_tokenizer_remembers_of_a_call_does_not_count(load):
    model = load("bert")
    before = fingerprint(model)
    model.encode(["a text", "a longer text of several words"])
    model.tokenizer(["a"], padding="max_length", max_length=11, truncation=True)
    assert fingerprint(model) == before


def test_every_tower_of_a_router_counts(load):
    model = load("router")
    before = fingerprint(model)
    query, document = (list(tower) for tower in model[0].sub_modules.values())
    assert len(find_tokenizers(model)) == 2
    document[0].tokenizer.add_tokens(["zebra"])
    after = fingerprint(model)
    assert after != before
    query[1].pooling_mode = "cls"
    assert fingerprint(model) not in (before, after)


def test_configs_that_change_the_arithmetic_count(load):
    model = load("bert")
    before = fingerprint(model)
    model[0].config.hidden_act = "relu"
    assert fingerprint(model) != before


def test_tokenizers_written_in_python_are_told_apart(load):
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    first, second = (WhitespaceTokenizer(vocab=[*"abc", word]) for word in ("cat", "dog"))
    assert digest_tokenizers([first]) != digest_tokenizers([second])
    assert digest_tokenizers([first]) == digest_tokenizers([WhitespaceTokenizer(vocab=[*"abc", "cat"])])


def test_texts_with_nul_do_not_collide():
    texts = (["a\0b"], ["a", "b"], ["a\0", "b"], ["a", "\0b"], ["a", "", "b"])
    assert len({fingerprint_texts(each) for each in texts}) == len(texts)
