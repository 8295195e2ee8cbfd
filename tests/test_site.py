"""The course as HTML, without a browser: the rules of a page, on a small course and on the real."""

import importlib.util
import re
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from fss.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "site.py"


def load():
    spec = importlib.util.spec_from_file_location("tools_site", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load()


def shown(**data):
    return [new_output("display_data", {key.replace("_", "/"): v for key, v in data.items()})]


@pytest.fixture
def course(tmp_path):
    """A repository of two notebooks: its root, and the cells of the first, to be changed."""
    root = tmp_path / "kit"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\ndescription = "To learn"\n')
    (root / "README.md").write_text(
        "| Notebook | You will show that ... | Minutes |\n|---|---|---|\n"
        "| [00 First](notebooks/00_first.ipynb) | a `net` works | 1 |\n"
        "| [01 Second](notebooks/01_second.ipynb) | it goes on & on | 3 |\n"
    )
    Image.new("L", (3, 2)).save(root / "drawn.png")
    pixel = b64encode((root / "drawn.png").read_bytes()).decode()
    cells = {
        "title": new_markdown_cell("# 00 First\n\n| | |\n|---|---|\n| Time | **1** minute |"),
        "head": new_markdown_cell("## The $N$ `maps`\n\n| a | b |\n|---|--:|\n| 1 | 2 |"),
        "links": new_markdown_cell(
            "[next](01_second.ipynb#Here-too), [up](#The-N-maps), [read](../README.md), [web](https://example.org/x)"
        ),
        "maths": new_markdown_cell("Of $a_i$:\n\n$$\\sum_i \\frac{a_i}{2} < 1$$"),
        "code": new_code_cell("x = 1", outputs=[new_output("stream", text="a < b\n" + 50 * "-")]),
        "figure": new_code_cell("figure", outputs=shown(image_png=pixel, text_plain="<Figure>")),
        "caption": new_markdown_cell('*A **black** pixel, by $A_i$ & "b".*\n\nMore of *this*.'),
        "drawn": new_markdown_cell("![Six pixels](../drawn.png)"),
        "widget": new_code_cell("slider", outputs=shown(text_plain="VBox()")),
        "folded": new_code_cell("y = 2", metadata={"jupyter": {"source_hidden": True}}),
        "frame": new_code_cell(
            "table",
            outputs=shown(text_html="<table><tr><th>r</th><td>1</td></tr></table><script>f()</script>"),
        ),
    }
    cells["widget"].outputs[0].data["application/vnd.jupyter.widget-view+json"] = {"model_id": "x"}
    second = new_notebook(cells=[new_markdown_cell("# 01 Second\n\n## Here too")])
    nbformat.write(second, root / "notebooks" / "01_second.ipynb")
    return root, cells


def write(course, **options):
    """Write the site of the course; returns the pages, name -> soup."""
    root, cells = course
    nbformat.write(new_notebook(cells=list(cells.values())), root / "notebooks" / "00_first.ipynb")
    out = root / "build" / "site"
    tool.Site(root, out, **options).write()
    return read(out)


def read(out):
    paths = out.glob("*.html")
    return {path.name: BeautifulSoup(path.read_text(), "html.parser") for path in paths}


def complaints(out, pages):
    """What is wrong with the pages of a site: (page, what, ...)."""
    found = []
    for name, page in pages.items():
        levels = [int(head.name[1]) for head in page(re.compile("^h[1-6]$"))]
        if levels.count(1) != 1 or levels[0] != 1:
            found.append((name, "not one first h1", levels))
        if any(after - before > 1 for before, after in zip(levels, levels[1:], strict=False)):
            found.append((name, "a level of headings is left out", levels))
        if page.html.get("lang") != "en" or not (page.title and page.main):
            found.append((name, "no language, title or main"))
        ids = [element["id"] for element in page(id=True)]
        found += [(name, "twice", anchor) for anchor in {i for i in ids if ids.count(i) > 1}]
        found += [(name, "a picture without a text", i) for i in page("img") if not i.get("alt")]
        found += [(name, "a head of nothing", th) for th in page("th") if not th.get("scope")]
        found += [(name, "TeX", t) for t in page(string=re.compile(r"\$|\\[a-z]{2}")) if is_text(t)]
        found += [(name, "a script", script) for script in page(["script", "iframe", "object"])]
        for element in page(["img", "link", "source"]):
            source = element.get("src") or element.get("href")
            if source != "data:," and not (out / source).is_file():
                found.append((name, "asks for", source))
        for link in page("a", href=True):
            url = urlsplit(link["href"])
            if url.scheme:
                continue
            target = (out / unquote(url.path)).resolve() if url.path else out / name
            if not target.exists():
                found.append((name, "leads nowhere", link["href"]))
            elif url.fragment and not pages[target.name](id=unquote(url.fragment)):
                found.append((name, "no such place", link["href"]))
    if re.search(r"url\(|@import", (out / "style.css").read_text()):
        found.append(("style.css", "asks for more"))
    return found


def is_text(string):
    return not string.find_parent(["pre", "code", "style"])


def test_a_small_course_keeps_every_rule(course):
    pages = write(course)
    assert complaints(course[0] / "build" / "site", pages) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("<h1", "<h2", "not one first h1"),
        ("<h2", "<h3", "a level of headings is left out"),
        (' lang="en"', "", "no language, title or main"),
        ('id="00-First"', 'id="content"', "twice"),
        ('alt="Six pixels"', 'alt=""', "a picture without a text"),
        (' scope="row"', "", "a head of nothing"),
        ("More of", "$More$ of", "TeX"),
        ("More of", "<script></script>", "a script"),
        ('src="pictures/drawn.png"', 'src="https://example.org/x.png"', "asks for"),
        ('href="style.css"', 'href="//example.org/x.css"', "asks for"),
        ("../../README.md", "README.md", "leads nowhere"),
        ("#Here-too", "#there", "no such place"),
    ],
)
def test_each_rule_finds_what_it_is_for(course, old, new, found):
    pages = write(course)
    spoiled = str(pages["00_first.html"]).replace(old, new)
    assert spoiled != str(pages["00_first.html"])
    pages["00_first.html"] = BeautifulSoup(spoiled, "html.parser")
    kinds = {kind for _, kind, *_ in complaints(course[0] / "build" / "site", pages)}
    assert found in kinds


def test_a_cell_becomes_html(course):
    page = write(course)["00_first.html"]
    assert page.h1.get_text() == "00 First" and page.h2["id"] == "The-N-maps"
    of_heading, inline, block, of_caption = page("math")
    assert [m["display"] for m in (of_heading, inline, block)] == ["inline", "inline", "block"]
    assert inline.msub.get_text() == "ai" and block.mfrac.get_text() == "ai2"
    assert page.find(class_="outputs").get_text().startswith("\na < b\n---")
    assert page.find("details", class_="input").get_text().split() == ["Code", "y", "=", "2"]
    assert "make lab" in page.find(class_="widget").get_text() and "VBox" not in page.get_text()


def test_a_picture_has_its_caption_for_a_text(course):
    figure, drawn = write(course)["00_first.html"]("img")
    assert figure["alt"] == 'A black pixel, by Ai & "b".'
    assert drawn["alt"] == "Six pixels"


def test_tables_have_heads(course):
    facts, table, frame = write(course)["00_first.html"]("table")
    assert [(th.get_text(), th["scope"]) for th in facts("th")] == [("Time", "row")]
    assert facts.thead is None and facts.td.get_text() == "1 minute"
    assert [(th.get_text(), th["scope"]) for th in table("th")] == [("a", "col"), ("b", "col")]
    assert [(th.get_text(), th["scope"]) for th in frame("th")] == [("r", "row")]


def test_what_is_wide_can_be_scrolled_by_keyboard(course):
    regions = write(course)["00_first.html"](class_="scroll")
    names = [region["aria-label"] for region in regions]
    assert names == ["table", "table", "equation", "output", "table"]  # not the short code
    assert all(region["tabindex"] == "0" and region["role"] == "group" for region in regions)


def test_links_lead_to_pages_and_files(course):
    links = [a["href"] for a in write(course)["00_first.html"].main("a")]
    assert links == [
        "01_second.html#Here-too",
        "#The-N-maps",
        "../../README.md",
        "https://example.org/x",
    ]


def test_the_repository_has_one_address(course):
    address = "https://github.com/somebody/kit"
    pages = write(course, repository=address + "/")
    links = [a["href"] for a in pages["00_first.html"].main("a")]
    path = "blob/main/notebooks/00_first.ipynb"
    assert links[:2] == [
        f"https://colab.research.google.com/github/somebody/kit/{path}",
        "https://mybinder.org/v2/gh/somebody/kit/main?labpath=notebooks/00_first.ipynb",
    ]
    assert f"{address}/blob/main/README.md" in links
    elsewhere = str(write(course, repository="https://example.org/kit")["00_first.html"])
    assert "https://example.org/kit/blob/main/README.md" in elsewhere
    assert "colab" not in elsewhere and "binder" not in elsewhere


def test_the_index_says_what_the_readme_says(course):
    first, second = write(course)["index.html"]("li")
    assert first.h2.a["href"] == "00_first.html" and first.h2.get_text() == "00 First"
    assert first.img["alt"].startswith("A black pixel")
    assert [" ".join(p.get_text().split()) for p in first("p")] == [
        "You will show that a net works.",
        "1 minute on two cores",
    ]
    assert second.img is None and "3 minutes" in second.get_text()
    assert "You will show that it goes on & on." in second.get_text()


def test_pages_follow_each_other(course):
    pages = write(course)
    for name, rel, to in (("00_first", "next", "01_second"), ("01_second", "prev", "00_first")):
        links = pages[f"{name}.html"]("a", rel=True)
        assert {(link["rel"][0], link["href"]) for link in links} == {(rel, f"{to}.html")}


def no_caption(root, cells):
    cells["caption"].source = "More of *this*."


def nothing_after(root, cells):
    for name in ("caption", "drawn", "widget", "folded", "frame"):
        del cells[name]


def html_without_alt(root, cells):
    cells["drawn"].source = "<img src='../drawn.png'>"


def foreign_picture(root, cells):
    cells["drawn"].source = "![a](https://example.org/a.png)"


def lost_picture(root, cells):
    cells["drawn"].source = "![a](../none.png)"


def dead_link(root, cells):
    cells["links"].source = "[x](02_third.ipynb)"


def no_row(root, cells):
    (root / "notebooks" / "02_third.ipynb").touch()


def no_notebook(root, cells):
    (root / "notebooks" / "01_second.ipynb").unlink()
    cells["links"].source = ""


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_caption, "00_first.ipynb: pictures/00_first_5_0.png has no text; begin the Markdown cell"),
        (nothing_after, "00_first.ipynb: pictures/00_first_5_0.png has no text"),
        (html_without_alt, "00_first.ipynb: pictures/drawn.png has no text"),
        (foreign_picture, "00_first.ipynb: https://example.org/a.png is no picture of the repository"),
        (lost_picture, "00_first.ipynb: links to ../none.png, which does not exist"),
        (dead_link, "00_first.ipynb: links to 02_third.ipynb, which does not exist"),
        (no_row, "notebooks/02_third.ipynb: has no row in README.md's table of notebooks"),
        (no_notebook, "notebooks/01_second.ipynb: does not exist, but has a row in README.md"),
    ],
)
def test_what_would_not_be_accessible_is_refused(course, spoil, said):
    spoil(*course)
    with pytest.raises(InputError) as caught:
        write(course)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The site of the repository's notebooks, by the real command."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, TOOL, "--out", out], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout == f"{out / 'index.html'}: {len(notebooks())} notebooks\n"
    return out, read(out)


def notebooks():
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
def test_the_course_keeps_every_rule(real):
    out, pages = real
    assert complaints(out, pages) == []
    assert pages.keys() == {"index.html", *(f"{path.stem}.html" for path in notebooks())}


@pytest.mark.slow
def test_the_course_is_whole(real):
    pages = real[1]
    for path in notebooks():
        notebook = nbformat.read(path, as_version=4)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        page = pages[f"{path.stem}.html"]
        assert len(page("img")) >= sum("image/png" in o.get("data", {}) for o in outputs) > 0
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        assert [box.pre.get_text().strip() for box in page(class_="input")] == [source.strip() for source in code]


@pytest.mark.slow
def test_the_api_reference_is_made_from_the_docstrings(real):
    pytest.importorskip("pdoc")
    out, pages = real
    assert pages["index.html"].find("a", href="api/fss.html")
    page = BeautifulSoup((out / "api" / "fss" / "attention.html").read_text(), "html.parser")
    light = page.find(id="LightAttention")
    assert "whole rows attend to whole rows" in light.get_text() and page.find(id="LightAttention.forward")
    assert page.math and page.find(id="register")
    assert BeautifulSoup((out / "api" / "fss.html").read_text(), "html.parser").find(id="load")
    for path in (out / "api").rglob("*.html"):
        text = path.read_text()
        assert not re.search(r"""(src=|@import |url\()["']?https?://|<link[^>]+https?://""", text), path
        assert "$$" not in text, path


@pytest.mark.slow
def test_the_index_has_the_minutes_of_the_readme(real):
    rows = tool.contents(ROOT)
    cards = real[1]["index.html"]("li")
    said = [(card.h2.get_text(), card.find(class_="minutes").get_text()) for card in cards]
    assert [(title, int(text.split()[0])) for title, text in said] == [(row.title, row.minutes) for row in rows]
    assert [row.notebook for row in rows] == notebooks()
    assert all(card.img for card in cards)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run([sys.executable, TOOL, "--out", tmp_path / "file" / "site"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "file" in done.stderr
