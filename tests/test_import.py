"""The architecture: what may import what."""

import ast
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
EXEMPT = {"__init__", "auto_classes"}
LAYERS = [
    {"atomic", "configuration_csr", "modeling_csr", "sparse_codes"},
    {"backbone", "encoder"},
    {"training", "search"},
    {"evaluation"},
    {"publishing"},
    {"recipe"},
    {"pipeline"},
    {"description"},
    {"cli"},
]


def imports(path):
    """Every module a file imports, wherever in the file, relative ones spelled out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = f"csr_hf.{node.module}" if node.level else str(node.module)
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names if name.startswith("csr_hf"))


def layer_of(module):
    return next(number for number, names in enumerate(LAYERS) if module.split(".")[0] in names)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - EXEMPT))
def test_imports_point_one_way(module):
    known = {f"csr_hf.{name}": name for name in MODULES}
    for imported in filter(None, (known.get(name) for name in imports(MODULES[module]))):
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}"
        package, other = module.split(".")[0], imported.split(".")[0]
        assert {package, other} != {"training", "search"}, f"{module} imports {imported}"


def test_travelling_files_need_torch_and_transformers_alone():
    for module in ("configuration_csr", "modeling_csr"):
        roots = {name.split(".")[0] for name in imports(MODULES[module]) if not name.startswith("csr_hf")}
        assert roots - sys.stdlib_module_names <= {"torch", "transformers"}
        inner = {name for name in imports(MODULES[module]) if name.startswith("csr_hf")}
        assert inner <= {"csr_hf.configuration_csr", "csr_hf.configuration_csr.CSRConfig"}


def test_search_knows_nothing_of_models():
    for module in (name for name in MODULES if name.startswith("search")):
        roots = {name.split(".")[0] for name in imports(MODULES[module])}
        assert not roots & {"torch", "transformers", "sentence_transformers", "datasets"}, module


def test_import_is_light():
    heavy = {"torch", "transformers", "sentence_transformers", "datasets", "numba", "matplotlib", "numpy"}
    script = f"import csr_hf, sys; sys.exit(str({heavy!r} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_public_names_resolve():
    for name in csr_hf.__all__:
        assert getattr(csr_hf, name) is not None
    assert set(csr_hf.__all__) <= set(dir(csr_hf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        csr_hf.nothing
