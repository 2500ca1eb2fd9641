"""What the pages say of files and folders is true."""

import re

import pytest

from tests.helpers.scripts import ROOT, load_script

PAGES = load_script("render").pages()
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_make_commands_of_the_readme_are_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"quickstart", "test"} <= commands
    for target in commands:
        assert f"\n{target}:" in makefile


def test_readme_is_short():
    assert len(README.encode()) <= 9000


def test_extras_of_the_readme_are_those_of_the_package():
    listed = README.partition("Extras")[2].partition("\n\n")[0].partition(":")[2]
    setup = (ROOT / "setup.py").read_text(encoding="utf-8").partition("extras_require={")[2]
    assert set(re.findall(r"`([\w-]+)`", listed)) == set(re.findall(r'^        "([\w-]+)": ', setup, re.MULTILINE))


def anchors(path):
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_map_of_the_package_names_every_module():
    package = ROOT / "csr_hf"
    listed, folder = [], package
    for line in (package / "README.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"## `(\w+)/`", line):
            folder = package / heading[1]
        elif row := re.match(r"\| `([\w./]+\.py)` \|", line):
            listed.append(folder / row[1])
    modules = {path for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert len(listed) == len(set(listed))
    assert {str(path.relative_to(package)) for path in modules ^ set(listed)} == set()
