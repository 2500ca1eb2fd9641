import pytest

from csr_hf.embedding.arguments import BackboneSettings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "int8"}, r"`dtype` \('int8'\): should be 'auto', 'float32', 'float16' or 'bfloat16'"),
        ({"dtyp": "float16"}, "`dtyp` is not a setting. Did you mean `dtype`"),
        ({"max_seq_length": 0}, r"`max_seq_length` \(0\): should be greater than or equal to 1"),
        ({"similarity": "cosin"}, "Did you mean `cosine`"),
        ({"prompts": {"qury": "q: "}}, "`prompts.qury` is no task and no role. Did you mean `prompts.query`"),
        (
            {"model_kwargs": {"trust_remote_code": True}},
            "`model_kwargs.trust_remote_code` is not passed on. Only the c",
        ),
        ({"model_kwargs": {"torch_dtype": "float16"}}, "It is a setting of its own: `dtype`"),
        (
            {"model_kwargs": {"code_revision": "x"}},
            "`model_kwargs.code_revision` is not passed on. Known: attn_implem",
        ),
        (
            {"model_kwargs": {"attn_implementation": "someone/kernel"}},
            r"`model_kwargs.attn_implementation` \('someone/",
        ),
        ({"processor_kwargs": {"cache_dir": "/"}}, "`processor_kwargs.cache_dir` is not passed on"),
        ({"processor_kwargs": {"subfolder": "../x"}}, "`processor_kwargs.subfolder` is not passed on"),
        ({"processor_kwargs": {"token": "hf_x"}}, "`processor_kwargs.token` is not passed on"),
        ({"processor_kwargs": {"padding_side": "up"}}, r"`processor_kwargs.padding_side` \('up'\)"),
        ({"processor_kwargs": {"size": {"height": "../x"}}}, "should be a valid integer"),
    ],
)
def test_what_is_not_passed_on_is_named(given, message):
    with pytest.raises(ValueError, match=message) as error:
        BackboneSettings(**given)
    assert "\n" not in str(error.value)


def test_what_is_no_default_is_recorded_and_read_again():
    assert BackboneSettings().to_record() == {}
    given = {"prompts": {"query": "q: "}, "truncate_dim": 16, "dtype": "bfloat16", "similarity": "dot"}
    given["processor_kwargs"] = {"padding_side": "left"}
    assert BackboneSettings(**given).to_record() == given
    assert BackboneSettings.from_config(given, "user/head") == BackboneSettings(**given)
    assert BackboneSettings.from_config(None, "user/head") == BackboneSettings()


def test_kernels_of_a_machine_are_neither_recorded_nor_taken_from_a_config():
    kwargs = {"attn_implementation": "flash_attention_2", "add_pooling_layer": False}
    assert BackboneSettings(model_kwargs=kwargs).to_record() == {"model_kwargs": {"add_pooling_layer": False}}
    alone = {"attn_implementation": "flash_attention_2"}
    assert BackboneSettings(model_kwargs=alone).to_record() == {}
    portable = {"attn_implementation": "eager"}
    assert BackboneSettings(model_kwargs=portable).to_record() == {"model_kwargs": portable}
    with pytest.raises(ValueError, match=r"`base_model_settings` of user/head: `model_kwargs.attn_implementation`"):
        BackboneSettings.from_config({"model_kwargs": kwargs}, "user/head")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], r"`base_model_settings` of user/head \(\[1\]\) must be a mapping"),
        ({"trust_remote_code": True}, "of user/head: `trust_remote_code` is not a setting"),
        ({"prompts": 3}, r"of user/head: `prompts` \(3\)"),
        (
            {"model_kwargs": {"trust_remote_code": True}},
            "of user/head: `model_kwargs.trust_remote_code` is not passed",
        ),
        ({"processor_kwargs": {"revision": "x"}}, "of user/head: `processor_kwargs.revision` is not passed on"),
    ],
)
def test_a_config_is_checked_before_it_is_believed(content, message):
    with pytest.raises(ValueError, match=message):
        BackboneSettings.from_config(content, "user/head")


def test_overrides_replace_prompts_one_by_one():
    settings = BackboneSettings(prompts={"query": "q: ", "document": "d: "}, truncate_dim=16)
    changed = settings.changed({"prompts": {"query": "ask: "}, "truncate_dim": None, "dtype": "float16"})
    assert changed.to_record() == {"prompts": {"query": "ask: ", "document": "d: "}, "dtype": "float16"}
    assert settings.to_record() == {"prompts": {"query": "q: ", "document": "d: "}, "truncate_dim": 16}
    with pytest.raises(ValueError, match="Did you mean `truncate_dim`"):
        settings.changed({"truncate_dims": 3})
