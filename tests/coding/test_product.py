"""Product quantization against distances that are written out."""

import numpy as np
import pytest

from csr_hf.coding.product import ProductQuantizer
from tests.coding.heads import make_rows


@pytest.mark.parametrize(("size", "widths"), [(4, [3] * 4), (5, [3, 3, 2, 2, 2]), (12, [1] * 12), (1, [12])])
def test_parts_are_kept_by_the_nearest_centroids(size, widths):
    rows = make_rows(600, 12)
    quantizer = ProductQuantizer.fit(rows, size)
    codes, start = quantizer.encode(rows), 0
    assert (codes.dtype, codes.shape, quantizer.size, quantizer.dim) == (np.uint8, (600, size), size, 12)
    decoded = quantizer.decode(codes)
    for part, width in enumerate(widths):
        own, centroids = rows[:, start : start + width], quantizer.centroids[part, :width].T
        distances = ((own[:, None].astype(np.float64) - centroids) ** 2).sum(axis=2)
        found = distances[np.arange(600), codes[:, part]]
        np.testing.assert_allclose(found, distances.min(axis=1), atol=1e-5)
        np.testing.assert_array_equal(decoded[:, start : start + width], centroids[codes[:, part]])
        start += width
    np.testing.assert_array_equal(quantizer.centroids, ProductQuantizer.fit(rows, size).centroids)


def test_kmeans_comes_as_close_as_that_of_faiss():
    faiss = pytest.importorskip("faiss")
    rows = make_rows(5000, 12)
    theirs = faiss.ProductQuantizer(12, 4, 8)
    theirs.cp.min_points_per_centroid = 1
    theirs.train(rows)
    ours = ProductQuantizer.fit(rows, 4)
    read = ours.decode(ours.encode(rows)), theirs.decode(theirs.compute_codes(rows))
    errors = [((rows - each) ** 2).sum() for each in read]
    assert errors[0] < 1.03 * errors[1]


def test_rows_that_are_equal_leave_no_centroid_undefined():
    rows = np.ones((300, 4), np.float32)
    rows[250:] = 2
    quantizer = ProductQuantizer.fit(rows, 2)
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(rows)), rows, rtol=1e-2)


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [
        (300, 13, r"`size` \(13\) must be between 1 and the width of the embeddings \(12\)"),
        (300, 0, r"`size` \(0\) must be between 1"),
        (200, 6, "residual codes need 256 training embeddings; there are 200"),
    ],
)
def test_wrong_fits_are_refused(count, size, message):
    with pytest.raises(ValueError, match=message):
        ProductQuantizer.fit(make_rows(count, 12), size)


@pytest.mark.parametrize(
    ("change", "dim", "message"),
    [
        (lambda made: made.astype(np.float64), 12, "must be float32"),
        (lambda made: made[:, :, :255], 12, "must be float32 with the shape"),
        (lambda made: made, 16, "are not for 16 dimensions"),
        (lambda made: made, 10, "are not for 10 dimensions"),
        (lambda made: made + np.float32(1), 12, r"`centroids\[2, 2\]` must be zeros"),
        (lambda made: made * np.float32(np.nan), 12, "holds NaN or infinity"),
    ],
)
def test_foreign_centroids_are_refused(change, dim, message):
    made = ProductQuantizer.fit(make_rows(300, 12), 5).centroids
    with pytest.raises(ValueError, match=message):
        ProductQuantizer(change(made), dim)
