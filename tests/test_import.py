"""The architecture: what may import what."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import csr_hf

ROOT = Path(csr_hf.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
PUBLIC = {f"csr_hf.{name}": module for name, module in csr_hf._PUBLIC.items()}
EXEMPT = {"__init__", "auto_classes"}
LAYERS = [
    # What a run's folder holds is known to all who write into it.
    {"plumbing", "runs.folder"},
    {
        "configuration_csr",
        "head_weights",
        "least_squares",
        "modeling_csr",
        "code_files",
        "code_products",
        "sparse_codes",
        "codes",
        "coding.pursuit",
        "repository",
        "heads",
    },
    # What latents are called is known wherever they are shown.
    {"embedding", "explain.latents"},
    {"data"},
    {"training"},
    {"coding"},
    {"search"},
    {"backends", "search_inputs", "search_hits", "search_index", "explain.steering", "explain.why"},
    {"evaluation"},
    {"publishing"},
    {"runs"},
    {"encoding"},
    {"encoder"},
    {"explain"},
    {"demo"},
    {"cli"},
]


# Packages that parts of the library do without, so that they can be used and tested alone.
FORBIDDEN = {
    "search": {"torch", "transformers", "sentence_transformers", "datasets", "accelerate"},
    "packed": {"torch", "transformers", "sentence_transformers", "datasets", "accelerate"},
    "sparse_codes": {"transformers", "sentence_transformers", "datasets", "accelerate"},
    "publishing": {"mteb"},
}


# Of the folder `coding`, what search may import.
PACKED = {"coding.packing", "coding.packed_files", "coding.bit_rows", "coding.bit_reading", "coding.bit_writing"}


PLUMBING_OF_SEARCH = {"atomic", "float_rows", "jit", "locks", "settings", "threads"}


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path, package=None):
    """Every module a file imports, wherever in the file, relative ones and public names spelled out."""
    package = package or ["csr_hf", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*parents, *([node.module] if node.module else [])])
            yield name
            if name.split(".")[0] == "csr_hf":
                names = [f"{name}.{alias.name}" for alias in node.names]
                yield from (PUBLIC.get(full, full) for full in names)


def layer_of(module):
    names = [name for name in (module, module.split(".")[0]) if any(name in layer for layer in LAYERS)]
    return next(number for number, layer in enumerate(LAYERS) if names[0] in layer)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - EXEMPT))
def test_imports_point_one_way(module):
    known = {f"csr_hf.{name}": name for name in MODULES}
    for imported in filter(None, (known.get(name) for name in imports(MODULES[module]))):
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}"


def circles(arrows):
    """Groups of modules that import each other, whichever way around."""
    reached = {module: set(found) for module, found in arrows.items()}
    for middle in arrows:
        for module in arrows:
            if middle in reached[module]:
                reached[module] |= reached[middle]
    return {frozenset(other for other in reached[module] if module in reached[other]) for module in arrows} - {
        frozenset()
    }


def arrows():
    known = {f"csr_hf.{name}": name for name in MODULES}
    return {
        module: {known[name] for name in imports(path) if name in known} - {module, "__init__"}
        for module, path in MODULES.items()
        if module != "__init__"
    }


def test_no_modules_import_each_other():
    assert circles(arrows()) == set()


@pytest.mark.parametrize("folder", ["recipes/bench", "recipes/regions"])
def test_no_scripts_import_each_other(folder):
    paths = {path.stem: path for path in sorted((ROOT.parent / folder).glob("*.py"))}
    if not paths:
        pytest.skip(f"needs {folder} of a clone")
    # Modules of `regions` are a package, those of `bench` stand beside their scripts.
    package = Path(folder).name
    found = {
        stem: {name.removeprefix(f"{package}.") for name in imports(path, [package])} & paths.keys() - {stem}
        for stem, path in paths.items()
    }
    assert any(found.values())
    assert circles(found) == set()


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset({"b", "c"})}


LONGEST_MODULE = 350
MOST_PARAMETERS = 7
# These take the keywords of `encode` of sentence-transformers.
MIRRORS = {"encoding.encode", "encoding.embed", "embedding.backbone.embed", "embedding.cache.embed_dataset"}
# Compiled loops and autograd functions take arrays one by one.
WIDE = {"training.cpu_kernels", "training.sparse_ops"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_fit_in_the_head(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("module", sorted(name for name in MODULES.keys() - WIDE if not name.startswith("search")))
def test_functions_take_few_parameters(module):
    for node in ast.walk(parse(MODULES[module])):
        if isinstance(node, ast.FunctionDef) and f"{module}.{node.name}" not in MIRRORS:
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = [each.arg for each in given if each.arg not in ("self", "cls")]
            assert len(names) <= MOST_PARAMETERS, f"{node.name}({', '.join(names)})"


def test_traveling_files_need_what_transformers_needs_alone():
    for module in ("configuration_csr", "head_weights", "least_squares", "modeling_csr"):
        roots = {name.split(".")[0] for name in imports(MODULES[module]) if not name.startswith("csr_hf")}
        assert roots - sys.stdlib_module_names <= {"torch", "transformers", "safetensors"}
        inner = {".".join(name.split(".")[:2]) for name in imports(MODULES[module]) if name.startswith("csr_hf")}
        assert inner <= {"csr_hf.configuration_csr", "csr_hf.head_weights", "csr_hf.least_squares"}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - EXEMPT))
def test_parts_do_without_the_packages_of_others(module):
    roots = {name.split(".")[0] for name in imports(MODULES[module])}
    part = "packed" if module in PACKED else module.split(".")[0]
    assert not roots & FORBIDDEN.get(part, set())


def test_packages_of_extras_are_imported_where_they_are_needed():
    """A run without labels or plots must not fail for want of a package that it has no use for."""
    extras = {"evaluate", "mteb", "matplotlib", "sklearn", "PIL", "pymilvus", "qdrant_client", "psycopg", "faiss"}
    extras |= {"elasticsearch", "opensearchpy", "gradio", "starlette"}
    for module in sorted(MODULES.keys() - EXEMPT - {"evaluation.metrics"}):
        assert "csr_hf.evaluation.metrics" not in set(imports(MODULES[module]))
        tree = parse(MODULES[module])
        heads = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        found = {(node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) or "" for node in heads}
        assert not {name.split(".")[0] for name in found} & extras, module


def test_search_knows_codes_alone():
    known = {f"csr_hf.{name}" for name in MODULES} - {"csr_hf.__init__"}
    found = {name for module in MODULES if module.startswith("search.") for name in imports(MODULES[module])} & known
    assert "csr_hf.sparse_codes" in found
    allowed = {f"csr_hf.{name}" for name in PACKED} | {f"csr_hf.plumbing.{name}" for name in PLUMBING_OF_SEARCH}
    # The coder that makes codes is named in annotations alone.
    allowed |= {"csr_hf.sparse_codes", "csr_hf.coding.coder", "csr_hf.coding.scalar", "csr_hf.coding.scalar_kernels"}
    allowed |= {"csr_hf.search"}
    assert {name for name in found if not name.startswith("csr_hf.search.")} <= allowed


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from ..encoder import CSREncoder", "csr_hf.encoder"),
        ("from csr_hf import CSREncoder", "csr_hf.encoder"),
        ("from csr_hf import encoder", "csr_hf.encoder"),
        ("def f():\n    import csr_hf.encoder as e", "csr_hf.encoder"),
        ("if TYPE_CHECKING:\n    from .index import InvertedIndex", "csr_hf.search.index"),
        ("from . import index", "csr_hf.search.index"),
    ],
)
def test_no_spelling_of_an_import_escapes(monkeypatch, tmp_path, line, expected):
    monkeypatch.setattr("tests.test_import.ROOT", tmp_path)
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "new.py").write_text(line)
    assert expected in set(imports(tmp_path / "search" / "new.py"))


def test_import_is_light():
    heavy = {"torch", "transformers", "sentence_transformers", "datasets", "numba", "matplotlib", "numpy", "pydantic"}
    script = f"import csr_hf, sys; sys.exit(str({heavy!r} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_public_names_resolve():
    for name in csr_hf.__all__:
        assert getattr(csr_hf, name) is not None
    assert set(csr_hf.__all__) <= set(dir(csr_hf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        csr_hf.nothing
