"""What can be checked of the documentation without building it.

`make docs` runs the stories of the gallery, and fails on a broken reference.
"""

import ast
import importlib
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import sk_advdef
import sk_advdef.nets

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
STORIES = sorted((ROOT / "examples" / "gallery").glob("*.py"))
#: What the build makes.
BUILT = ("gallery/", "generated/")
PUBLIC = {"sk_advdef": sk_advdef.__all__, "sk_advdef.nets": sk_advdef.nets.__all__}


def test_there_are_ten_stories():
    assert len(STORIES) == 10
    assert all(path.name.startswith("plot_") for path in STORIES)


@pytest.mark.parametrize("path", STORIES, ids=lambda p: p.stem)
def test_stories_compile_and_use_public_names_only(path):
    source = path.read_text(encoding="utf-8")
    compile(source, path.name, "exec")
    ours = 0
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module]
            if node.module.split(".")[0] == "sk_advdef":
                names = {alias.name for alias in node.names}
                assert names <= set(PUBLIC[node.module])
                ours += len(names)
        assert all(m.split(".")[0] != "sk_advdef" or m in PUBLIC for m in modules)
    assert ours


def test_every_page_is_in_a_toctree():
    listed = set()
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
            listed |= {line for line in block.split() if not line.startswith(":")}
    assert {path.stem for path in PAGES} - {"index"} <= listed


def test_no_line_of_a_page_is_a_comment():
    """A line that begins with a percent sign, such as after a number, is not shown."""
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.lstrip().startswith("%")], page


def test_links_within_the_documentation_lead_to_pages():
    broken = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            page, _, heading = target.partition("#")
            if ":" in target or not page or page.startswith(BUILT):
                continue
            if not (DOCS / page).is_file():
                broken.append(f"{path.name}: {target}")
            elif heading:
                titles = re.findall(
                    r"^#+ (.*)$",
                    (DOCS / page).read_text(encoding="utf-8"),
                    re.MULTILINE,
                )
                if heading not in {title.lower().replace(" ", "-") for title in titles}:
                    broken.append(f"{path.name}: {target}")
    assert not broken


def test_every_term_of_the_glossary_is_explained():
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    _, _, entries = text.partition(":::{glossary}\n")
    terms = entries.partition("\n:::")[0].split("\n\n")
    assert len(terms) > 20
    for entry in terms:
        term, *meaning = entry.splitlines()
        assert not term.startswith(" ") and meaning, term
        assert all(line.startswith("  ") for line in meaning), term


def test_who_finds_a_fault_finds_where_to_report_it():
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "How to report" in security and "Supported versions" in security
    links = re.findall(r"\]\(([^)\s]+)\)", security)
    assert links and all((ROOT / link).is_file() for link in links)
    assert "](SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    page = (DOCS / "security.md").read_text(encoding="utf-8")
    # else its links would lead out of the documentation
    assert "../SECURITY.md" in page and ":relative-docs: docs/" in page


def test_figures_of_choosing_are_results():
    """A share evaded is a figure of the results, or an accuracy taken from 100."""
    number = re.compile(r"(?<![\d.,])\d+\.\d+(?!\.?\d)")
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    known = set(number.findall(results))
    known |= {f"{100 - float(figure):.1f}" for figure in known if float(figure) <= 100}
    page = (DOCS / "choosing.md").read_text(encoding="utf-8")
    page = re.sub(r"`[^`]*`|arXiv:\S+|eps [\d.]+|\*\*[\d.]+\*\*", "", page)
    page = re.sub(r"\| 0\.[123] \|", "|", page)
    told = number.findall(page)
    assert len(told) > 50
    assert not [figure for figure in told if figure not in known]


def test_every_picture_of_the_guide_is_drawn_and_shown(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(DOCS)
    figures = importlib.import_module("_figures")
    figures.draw(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    pages = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    assert set(re.findall(r"generated/figures/([\w-]+\.svg)", pages)) == drawn
    for path in tmp_path.iterdir():
        root = ElementTree.parse(path).getroot()
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 10
