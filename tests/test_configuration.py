import pytest

from csr_hf import CSRConfig


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
