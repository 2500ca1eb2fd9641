"""Compact codes: what they hold, files of them and of their coders, and what is refused."""

import numpy as np
import pytest

from csr_hf.codes import head_fingerprint
from csr_hf.coding.coder import Coder
from csr_hf.coding.compact import CompactCodes, load_codes
from csr_hf.coding.compact_coder import CompactCoder, load_coder
from csr_hf.coding.prior_fitting import fit_links, fit_prior
from csr_hf.coding.transform import TransformQuantizer
from csr_hf.runs.describe import examine
from tests.coding.heads import make_head, make_rows


def make_coder(head=None, row_bytes=10, residual=None, seed=1):
    head = head or make_head()
    pursuit, rows = Coder(head, k=4).pursuit, make_rows(900, seed=seed)
    prior = fit_prior(fit_links(pursuit, rows, row_bytes), pursuit, rows, row_bytes, 3)
    made = CompactCoder(head, row_bytes=row_bytes, prior=prior)
    if residual:
        left = rows - made.decode(made.encode(rows))
        made = CompactCoder(head, row_bytes=row_bytes, prior=prior, residual=TransformQuantizer.fit(left, residual))
    return made


@pytest.fixture(scope="module")
def coder():
    return make_coder()


@pytest.fixture(scope="module")
def residual_coder():
    return make_coder(residual=8)


def same(one, other):
    return (
        np.array_equal(one.rows, other.rows)
        and (one.coder, one.head_fingerprint) == (other.coder, other.head_fingerprint)
        and (one.residual is None) == (other.residual is None)
        and (one.residual is None or np.array_equal(one.residual, other.residual))
    )


def test_codes_are_decoded_to_what_their_latents_say(coder):
    rows = make_rows(200, seed=3)
    codes = coder.encode(rows)
    assert (len(codes), codes.row_bytes, codes.bytes_per_row, codes.nbytes) == (200, 10, 10, 2000)
    assert repr(codes) == "CompactCodes(n=200, 10 bytes a row)"
    sparse = coder.unpack(codes)
    assert (np.diff(sparse.values, axis=1) <= 0).all() and sparse.head_fingerprint == head_fingerprint(coder.head)
    atoms, bias = (part.detach().numpy() for part in (coder.head.dictionary, coder.head.pre_bias))
    expected = np.einsum("nk,nkd->nd", sparse.values, atoms[sparse.indices.astype(int)]) + bias
    np.testing.assert_allclose(coder.decode(codes), expected, atol=1e-5)
    packed = Coder(coder.head, row_bytes=10, bits=3)
    lost, before = (((each.decode(each.encode(rows)) - rows) ** 2).sum() for each in (coder, packed))
    assert lost < before


def test_residuals_come_closer_in_their_mean_bytes(residual_coder):
    rows = make_rows(500, seed=4)
    codes = residual_coder.encode(rows)
    assert residual_coder.bytes_per_vector == 18 and 17 < codes.bytes_per_row <= 18
    bare = CompactCodes(codes.rows, codes.coder, codes.head_fingerprint)
    lost, before = (((residual_coder.decode(each) - rows) ** 2).sum() for each in (codes, bare))
    assert lost < 0.5 * before
    assert residual_coder.name == "CSR + residual" and residual_coder.settings["residual_bytes"] == 8


@pytest.mark.parametrize("name", ["coder", "residual_coder"])
def test_files_of_codes_hold_them_as_they_are(tmp_path, request, name):
    made = request.getfixturevalue(name)
    codes, path = made.encode(make_rows(60, seed=5)), tmp_path / "deep" / "codes.safetensors"
    codes.save(path, ids=[f"d{at}" for at in range(60)])
    loaded = CompactCodes.load(path)
    assert same(loaded, codes) and CompactCodes.load_ids(path) == [f"d{at}" for at in range(60)]
    assert path.stat().st_size < codes.nbytes + 1500
    np.testing.assert_array_equal(made.decode(loaded), made.decode(codes))
    codes[:0].save(tmp_path / "none")
    assert len(CompactCodes.load(tmp_path / "none")) == 0 and CompactCodes.load_ids(tmp_path / "none") is None


def test_codes_are_selected_and_stacked(residual_coder):
    codes = residual_coder.encode(make_rows(40, seed=6))
    assert same(CompactCodes.concatenate([codes[:7], codes[7:]]), codes)
    assert same(CompactCodes.concatenate([codes[0], codes[np.int64(1)], codes[2:-1], codes[-1]]), codes)
    with pytest.raises(IndexError, match=f"row {len(codes)} of {len(codes)} codes"):
        codes[len(codes)]
    mask = np.arange(40) % 3 == 0
    np.testing.assert_allclose(residual_coder.decode(codes[mask]), residual_coder.decode(codes)[mask], atol=1e-5)
    with pytest.raises(ValueError, match="of one coder, of one at least"):
        CompactCodes.concatenate([])
    with pytest.raises(ValueError, match="of one coder"):
        CompactCodes.concatenate([codes, CompactCodes(codes.rows, "another")])


@pytest.mark.parametrize("name", ["coder", "residual_coder"])
def test_coders_are_saved_and_loaded_with_their_head_alone(tmp_path, request, name):
    made, path = request.getfixturevalue(name), tmp_path / "coder.safetensors"
    made.save(path)
    loaded, rows = CompactCoder.load(path, make_head()), make_rows(50, seed=7)
    assert loaded.settings == made.settings and same(loaded.encode(rows), made.encode(rows))
    np.testing.assert_array_equal(loaded.decode(made.encode(rows)), made.decode(made.encode(rows)))
    with pytest.raises(ValueError, match="was made for another head"):
        CompactCoder.load(path, make_head(seed=1))
    with pytest.raises(ValueError, match=r"`prior` is for 96 latents, the head has 90"):
        CompactCoder.load(path, make_head(hidden_dim=90))
    with pytest.raises(ValueError, match=r"its format is 'csr_hf\.compact_coder' instead of 'csr_hf\.coder'"):
        Coder.load(path, make_head())
    whole = path.read_bytes()
    damaged = [whole[:-10], whole[:40], b"", whole.replace(b"row_bytes", b"raw_bytes")]
    damaged += [whole.replace(b"links", b"lints"), whole.replace(b'residual_bytes":"', b'residual_bytes":"7')]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"coder\.safetensors is damaged, or no file of a coder"):
            CompactCoder.load(path, make_head())


def test_codes_and_coders_of_either_kind_are_loaded_by_one_call(tmp_path, coder):
    packed = Coder(coder.head, row_bytes=9)
    for made in (coder, packed):
        made.save(tmp_path / "coder.safetensors")
        codes = made.encode(make_rows(4))
        codes.save(tmp_path / "codes.safetensors")
        loaded = load_coder(tmp_path / "coder.safetensors", coder.head)
        assert type(loaded) is type(made) and loaded.settings == made.settings
        np.testing.assert_array_equal(load_codes(tmp_path / "codes.safetensors").rows, codes.rows)
        facts = [examine(tmp_path / f"{name}.safetensors").lines[0] for name in ("coder", "codes")]
        size = made.bytes_per_vector
        assert facts[0].startswith(f"coder {tmp_path / 'coder.safetensors'}: {size} bytes an embedding, 0 of them")
        assert f"{size} bytes a row" in facts[1]
    with pytest.raises(ValueError, match="no file of packed codes"):
        load_codes(tmp_path / "coder.safetensors")
    whole = (tmp_path / "coder.safetensors").read_bytes()
    (tmp_path / "coder.safetensors").write_bytes(whole.replace(b"row_bytes", b"raw_bytes"))
    with pytest.raises(ValueError, match=r"coder\.safetensors is damaged, or no file of a coder .*Save it again"):
        examine(tmp_path / "coder.safetensors")


def test_codes_of_another_coder_are_refused(coder):
    codes = make_coder(seed=2).encode(make_rows(3))
    with pytest.raises(ValueError, match="were made by another coder"):
        coder.decode(codes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": np.zeros((3, 2), np.int8)}, r"`rows` \(int8, \(3, 2\)\) must be uint8 with the shape"),
        ({"rows": np.zeros(3, np.uint8)}, r"`rows` \(uint8, \(3,\)\)"),
        ({"residual": np.zeros((2, 2), np.uint8)}, "`residual` has 2 rows for 3 of `rows`"),
        ({"residual": np.zeros((3, 2))}, "`residual` .* must be uint8"),
        ({"coder": ""}, r"`coder` \(''\) must be the fingerprint of a coder"),
        ({"coder": "x" * 65}, "must be the fingerprint of a coder"),
    ],
)
def test_what_is_no_code_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CompactCodes(**{"rows": np.zeros((3, 2), np.uint8), "coder": "one", **arguments})


def test_rows_of_too_few_bytes_are_refused(coder):
    with pytest.raises(ValueError, match=r"`row_bytes` \(2\) must be at least 3"):
        CompactCoder(coder.head, row_bytes=2, prior=coder.prior)
