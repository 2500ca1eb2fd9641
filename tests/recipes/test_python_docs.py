import ast
import importlib.util
import inspect
import textwrap

from csr_hf.data.arguments import DataArguments
from csr_hf.data.sources import load_sources
from tests.helpers.scripts import load_script

script = load_script("python_docs")


def test_pairs_are_real_docstrings_without_repetition():
    pairs = script.read_docstrings(400)
    assert len(pairs) == 400
    assert len({pair.summary.lower() for pair in pairs}) == 400
    for pair in pairs:
        assert len(pair.summary.split()) >= 4
        assert len(pair.body) >= 60
        assert "\n" not in pair.summary
    named = {pair.name: pair for pair in pairs}
    name, pair = next((name, pair) for name, pair in named.items() if name.startswith("bisect."))
    module, _, function = name.rpartition(".")
    documented = getattr(importlib.import_module(module), function)
    assert pair.body.split()[:5] == inspect.getdoc(documented).partition("\n\n")[2].split()[:5]


def test_smaller_limit_is_a_prefix():
    assert script.read_docstrings(150) == script.read_docstrings(300)[:150]


def test_private_trivial_and_undocumented_definitions_are_left_out():
    body = "A body that says enough about it to be worth finding, in more than sixty characters."
    source = f'''
        """Module that is documented well.

        {body}
        """
        def f():
            """Compute the frobnication of it.

            {body}
            """
        def _hidden():
            """Compute the hidden frobnication here.

            {body}
            """
        def short():
            """Too short.

            {body}
            """
        def no_body():
            """Compute something but say nothing more."""
        class C:
            """Hold the state of a frobnicator.

            {body}
            """
            async def method(self):
                """Advance the state
                by one step.

                {body}
                """
        '''
    pairs = list(script.pairs_of_node(ast.parse(textwrap.dedent(source)), "m"))
    assert [(pair.name, pair.summary) for pair in pairs] == [
        ("m", "Module that is documented well."),
        ("m.f", "Compute the frobnication of it."),
        ("m.C", "Hold the state of a frobnicator."),
        ("m.C.method", "Advance the state by one step."),
    ]
    assert {pair.body for pair in pairs} == {body}


def test_corpus_loads_as_pairs_with_names(corpus):
    (texts,) = load_sources(DataArguments(source=str(corpus), limit=50, held_out=0.2))
    assert texts.query_role == "anchor"
    assert len(texts) == 50
    assert all(importlib.util.find_spec(name.split(".")[0]) for name in texts.rows["id"])
