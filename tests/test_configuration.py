import json

import pytest

from csr_hf import CSRConfig, CSRModel


def write_config(folder, **changes):
    """A config.json as a head's folder has it, with other or more settings."""
    settings = {**CSRConfig(input_dim=8, hidden_dim=16, k=2).to_diff_dict(), **changes}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("name", ["input_dim", "hidden_dim", "k", "dead_threshold"])
@pytest.mark.parametrize("size", [0, -1, 1.5, "8", True, None])
def test_sizes_must_be_positive_integers(name, size):
    with pytest.raises(ValueError, match=rf"`{name}` \({size!r}\) must be a positive integer"):
        CSRConfig(**{name: size})


def test_k_and_k_aux_must_fit_hidden_dim():
    with pytest.raises(ValueError, match=r"`k` \(65\) must not exceed `hidden_dim` \(64\)"):
        CSRConfig(hidden_dim=64, k=65)
    with pytest.raises(ValueError, match=r"`k_aux` \(65\) must not exceed `hidden_dim` \(64\)"):
        CSRConfig(hidden_dim=64, k=8, k_aux=65)
    assert CSRConfig(hidden_dim=64, k=64, k_aux=64).k == 64


@pytest.mark.parametrize("k_aux", [-1, 1.5, "8", True])
def test_k_aux_must_be_an_integer(k_aux):
    with pytest.raises(ValueError, match=rf"`k_aux` \({k_aux!r}\) must be an integer, 0 or more"):
        CSRConfig(k_aux=k_aux)


def test_k_aux_defaults_to_half_of_small_heads():
    assert CSRConfig(hidden_dim=64, k=8).k_aux == 32
    assert CSRConfig(hidden_dim=4096).k_aux == 512
    assert CSRConfig(k_aux=0).k_aux == 0


def test_json_round_trip(tmp_path):
    sizes = {"input_dim": 8, "hidden_dim": 16, "k": 2, "k_aux": 3, "dead_threshold": 77, "tied_decoder": False}
    config = CSRConfig(**sizes, base_model_name_or_path="a/b", base_model_revision="abc")
    config.save_pretrained(tmp_path)
    loaded = CSRConfig.from_pretrained(tmp_path)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert {name: getattr(loaded, name) for name in sizes} == sizes
    assert (loaded.base_model_name_or_path, loaded.base_model_revision) == ("a/b", "abc")


WRONG = [
    ({"tied_decoder": "no"}, r"`tied_decoder` \('no'\) must be True or False"),
    ({"tied_decoder": 1}, r"`tied_decoder` \(1\) must be True or False"),
    ({"base_model_name_or_path": 5}, r"`base_model_name_or_path` \(5\) must be a string or None"),
    ({"base_model_revision": True}, r"`base_model_revision` \(True\) must be one word"),
    ({"modalities": "image"}, r"`modalities` \('image'\) must be two or more different names"),
    ({"modalities": ["image", 3]}, r"`modalities` .* must be two or more different names"),
    ({"modalities": ["text", "text"]}, r"`modalities` .* must be two or more different names"),
    ({"base_model_settings": [1]}, r"`base_model_settings` \(\[1\]\) must be a mapping"),
    ({"base_model_settings": {"dtype": object}}, r"`base_model_settings` must hold what JSON holds"),
    ({"base_model_settings": {"scale": float("nan")}}, r"`base_model_settings` must hold what JSON holds"),
    ({"base_model_settings": {"model_kwargs": {"trust_remote_code": True}}}, r"`trust_remote_code`, which is never"),
    ({"base_model_settings": {"processors": [{"token": "secret"}]}}, r"`token`, which is never recorded"),
    ({"fingerprints": {"a": 1}}, r"`fingerprints` .* must be a mapping of strings"),
    ({"k": 10**6}, r"`k` \(1000000\) must not exceed `hidden_dim` \(16\)"),
    ({"k_aux": 17}, r"`k_aux` \(17\) must not exceed `hidden_dim` \(16\)"),
    ({"hidden_dim": 1}, r"`k` \(2\) must not exceed `hidden_dim` \(1\)"),
    ({"normalize": True}, "`normalize`: a CSR head does not normalize its inputs"),
    ({"quantization_config": {"load_in_8bit": True}}, "`quantization_config`: a CSR head is not quantized"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_wrong_values_are_refused_wherever_they_come_from(settings, message, tmp_path):
    sizes = {"input_dim": 8, "hidden_dim": 16, "k": 2, "k_aux": 0}
    with pytest.raises(ValueError, match=message):
        CSRConfig(**{**sizes, **settings})
    config = CSRConfig(**sizes)
    before = config.to_dict()
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=message):
        setattr(config, name, value)
    assert config.to_dict() == before
    if "JSON" not in message:
        with pytest.raises(ValueError, match=message):
            CSRConfig.from_pretrained(write_config(tmp_path, **{"k_aux": 0, **settings}))


def test_values_that_fit_are_assigned():
    config = CSRConfig(input_dim=8, hidden_dim=16, k=2)
    config.hidden_dim, config.k, config.k_aux, config.tied_decoder = 64, 40, None, False
    assert (config.hidden_dim, config.k, config.k_aux, config.tied_decoder) == (64, 40, 32, False)
    config.modalities = ("image", "text")
    assert config.modalities == ["image", "text"]
    config.update({"k": 3})
    assert config.k == 3


@pytest.mark.parametrize(("name", "meant"), [("hiden_dim", "hidden_dim"), ("tied_decodr", "tied_decoder"), ("K", "k")])
def test_misspelt_names_are_refused(name, meant, tmp_path):
    message = rf"`{name}` is no setting of a CSR head. Did you mean `{meant}`\?"
    with pytest.raises(ValueError, match=message):
        CSRConfig(**{name: 1})
    with pytest.raises(ValueError, match=message):
        setattr(CSRConfig(), name, 1)
    with pytest.raises(ValueError, match=message):
        CSRConfig.from_pretrained(write_config(tmp_path), **{name: 1})
    with pytest.raises(ValueError, match=message):
        CSRConfig.from_pretrained(write_config(tmp_path, **{name: 1}))


def test_unknown_names_are_refused_at_construction_and_left_out_of_files(tmp_path):
    with pytest.raises(
        ValueError, match=r"`latents` is no setting of a CSR head. They are: input_dim, hidden_dim, k,"
    ):
        CSRConfig(latents=100)
    config = CSRConfig.from_pretrained(write_config(tmp_path, note="of somebody", save_pretrained="not a method"))
    assert not hasattr(config, "note")
    assert callable(config.save_pretrained)


def test_what_transformers_itself_writes_is_taken(tmp_path):
    config = CSRConfig(input_dim=8, hidden_dim=16, k=2, torch_dtype="float16", num_labels=3, normalize=False)
    # `Trainer` assigns this one, and a checkpoint then holds it.
    config.use_cache, config.architectures, config.auto_map = False, ["CSRModel"], {"AutoModel": "modeling.CSRModel"}
    config.save_pretrained(tmp_path)
    loaded = CSRConfig.from_pretrained(tmp_path, output_attentions=False)
    # Labels and code of others are none of a head's.
    assert (loaded.num_labels, loaded.architectures) == (CSRConfig().num_labels, ["CSRModel"])
    assert loaded.auto_map == {"AutoConfig": "configuration_csr.CSRConfig"}
    again = CSRConfig(**loaded.to_dict())
    assert again.to_dict() == loaded.to_dict()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda config: config.modalities.append("text"), "`modalities` .* must be two or more different names"),
        (lambda config: config.base_model_settings.update(token="secret"), "`token`, which is never recorded"),
        (lambda config: config.__dict__.update(k=10**6), r"`k` \(1000000\) must not exceed"),
    ],
)
def test_what_was_changed_in_place_is_checked_at_saving(damage, message, tmp_path):
    config = CSRConfig(modalities=["image", "text"])
    damage(config)
    with pytest.raises(ValueError, match=message):
        config.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_backbone_are_recorded(tmp_path):
    settings = {"prompts": {"query": "find: "}, "model_kwargs": {"dtype": "bfloat16"}, "truncate_dim": 8}
    config = CSRConfig(base_model_settings=settings)
    settings["prompts"]["query"] = "changed by the caller"
    config.save_pretrained(tmp_path)
    expected = {"prompts": {"query": "find: "}, "model_kwargs": {"dtype": "bfloat16"}, "truncate_dim": 8}
    assert json.loads((tmp_path / "config.json").read_text())["base_model_settings"] == expected
    assert CSRConfig.from_pretrained(tmp_path).base_model_settings == expected
    assert CSRConfig().base_model_settings == {}


def test_configurations_of_the_old_name_are_read(tmp_path):
    settings = {"model_type": "csr", "input_dim": 8, "hidden_dim": 16, "k": 2, "k_aux": 3, "dead_threshold": 7}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    config = CSRConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.k, config.k_aux, config.dead_threshold) == ("csr_hf", 2, 3, 7)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "csr_hf"


@pytest.mark.parametrize("sizes", [{"k": 20, "hidden_dim": 30}, {"hidden_dim": 1, "k": 1, "k_aux": 1}])
def test_settings_replaced_at_loading_are_checked_together(sizes, tmp_path):
    config = CSRConfig.from_pretrained(write_config(tmp_path), **sizes)
    assert {name: getattr(config, name) for name in sizes} == sizes


@pytest.mark.parametrize("load", [CSRConfig.from_pretrained, CSRModel.from_pretrained])
def test_a_head_without_its_config_is_not_given_another(tmp_path, load):
    CSRModel(CSRConfig(k=8)).save_pretrained(tmp_path)
    assert load(tmp_path) is not None
    (tmp_path / "config.json").unlink()
    with pytest.raises(OSError, match=r"config\.json"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["[]", "5", "null", '"csr_hf"'])
def test_a_config_that_is_no_mapping_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises((ValueError, OSError), match=r"config\.json"):
        CSRConfig.from_pretrained(tmp_path)
