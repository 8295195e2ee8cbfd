"""Write the course and the API reference as static HTML that asks no other host for anything: `make site`.

    python tools/site.py --out build/site --repository https://github.com/OWNER/NAME

The pages show the outputs that are committed in notebooks/, which the tests keep current. Equations
become MathML, pictures become files, and the text of a picture is its caption: the *italic*
beginning of the Markdown cell that follows. Order, promises and minutes of the index are those of
the README's table of notebooks. The API reference is what pdoc makes of the docstrings, in api/.
"""

import argparse
import html
import os
import pkgutil
import re
import sys
import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup, Tag
from jinja2 import FileSystemLoader
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import ExtractOutputPreprocessor

from fss.errors import InputError
from fss.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "tools" / "templates"
PICTURES = "pictures"  # the folder of the site that holds them
ROW = re.compile(r"^\| \[(.+?)\]\((notebooks/[^)]+\.ipynb)\) \| (.+?) \| (\d+) \|$", re.MULTILINE)
NARROW = 34  # characters of code that fit a phone: where a line is longer, the region scrolls
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")
BRANCH = "main"
FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\( (.+?) \\\)", re.DOTALL)  # as pdoc leaves them, for a script of another host
UNDESCRIBED = {"", "No description has been provided for this image"}  # the latter is nbconvert's


@dataclass(frozen=True)
class Page:
    """A row of the README's table of notebooks."""

    title: str
    notebook: Path
    promise: str  # Markdown: what the reader will show
    minutes: int

    @property
    def file(self) -> str:
        """The page's name in the site."""
        return f"{self.notebook.stem}.html"


class _Renderer(IPythonRenderer):
    """Markdown as Jupyter reads it, with equations that browsers draw by themselves."""

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        anchor = _text(BeautifulSoup(text, "html.parser")).replace(" ", "-")  # as JupyterLab's
        return super().heading(text, level, id=anchor)  # type: ignore[arg-type]

    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return convert(body, display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def markdown(source: str) -> str:
    """Return the HTML of Markdown with equations in TeX."""
    renderer = _Renderer(escape=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(source)


def contents(root: Path) -> list[Page]:
    """Return the rows of the README's table of notebooks, in its order.

    Raises:
        InputError: a notebook without a row, or a row without a notebook.
    """
    readme = (root / "README.md").read_text(encoding="utf-8")
    pages = [Page(title, root / path, promise, int(minutes)) for title, path, promise, minutes in ROW.findall(readme)]
    notebooks = set((root / "notebooks").glob("*.ipynb"))
    for path in sorted(notebooks ^ {page.notebook for page in pages}):
        wrong = "has no row in" if path in notebooks else "does not exist, but has a row in"
        raise InputError(f"{path.relative_to(root)}: {wrong} README.md's table of notebooks")
    return pages


class Site:
    """The pages of a site.

    Args:
        root: the repository.
        out: the folder that is written.
        repository: its public address; without one, links to its files are relative, and no page
            links to Colab or Binder.
        api: whether the index links to the API reference.
    """

    def __init__(self, root: Path, out: Path, repository: str | None = None, *, api: bool = False) -> None:
        self.root, self.out, self.api = root.resolve(), out.resolve(), api
        self.repository = repository.rstrip("/") if repository else None
        self.exporter = HTMLExporter(extra_loaders=[FileSystemLoader(TEMPLATES)], template_file="cells.html.j2")
        self.exporter.register_filter("markdown2html", markdown)
        self.exporter.register_preprocessor(ExtractOutputPreprocessor(), enabled=True)

    def write(self) -> list[Page]:
        """Write every notebook's page, its pictures, the index and the style.

        Raises:
            InputError: a picture without a text or of another host, a link that leads nowhere, a
                notebook that is not in the README's table.
        """
        pages = contents(self.root)
        covers = {}
        for number, page in enumerate(pages):
            body = self._body(page)
            covers[page.file] = body.find("img")
            self._render(
                page.file,
                "notebook.html.j2",
                page=page,
                body=body,
                run=self._run(page),
                before=pages[number - 1] if number else None,
                after=pages[number + 1] if number + 1 < len(pages) else None,
            )
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))
        self._render(
            "index.html",
            "index.html.j2",
            pages=pages,
            covers=covers,
            run=self._run(pages[0]),
            description=project["project"]["description"],
            readme=self._address(self.root / "README.md"),
            api=self.api,
        )
        write_atomically(self.out / "style.css", (TEMPLATES / "style.css").read_bytes())
        return pages

    def _render(self, name: str, template: str, **values: Any) -> None:
        page = self.exporter.environment.get_template(template).render(values)
        write_atomically(self.out / name, page.encode())

    def _body(self, page: Page) -> BeautifulSoup:
        """The cells of a notebook as HTML. Its pictures are written on the way."""
        body, resources = self.exporter.from_notebook_node(
            nbformat.read(page.notebook, as_version=4),
            {"unique_key": page.notebook.stem, "output_files_dir": PICTURES},
        )
        for name, content in resources["outputs"].items():
            write_atomically(self.out / name, content)
        soup = BeautifulSoup(body, "html.parser")
        for script in soup("script"):
            script.decompose()
        for link in soup("a", href=True):
            link["href"] = self._target(str(link["href"]), page)
        for picture in soup("img"):
            if picture["src"] not in resources["outputs"]:
                picture["src"] = self._copy(str(picture["src"]), page)
            if picture["alt"] in UNDESCRIBED:
                picture["alt"] = _caption(picture)
            if not picture["alt"]:
                raise InputError(
                    f"{page.notebook.name}: {picture['src']} has no text; begin the Markdown cell "
                    "after the picture with *what is seen*"
                )
        _head_tables(soup)
        _let_scroll(soup)
        return soup

    def _target(self, link: str, page: Page) -> str:
        """Where a notebook's link leads from its page."""
        path, hash_, anchor = link.partition("#")
        if not path or ":" in path:
            return link
        file = self._existing(path, page)
        inside = file.suffix == ".ipynb" and file.parent == page.notebook.parent
        return (f"{file.stem}.html" if inside else self._address(file)) + hash_ + anchor

    def _copy(self, source: str, page: Page) -> str:
        """Take a picture of the repository into the site; returns its name there."""
        if ":" in source:
            raise InputError(f"{page.notebook.name}: {source[:60]} is no picture of the repository")
        file = self._existing(source, page)
        name = f"{PICTURES}/{'_'.join(file.relative_to(self.root).parts)}"
        write_atomically(self.out / name, file.read_bytes())
        return name

    def _existing(self, path: str, page: Page) -> Path:
        file = (page.notebook.parent / unquote(path)).resolve()
        if not file.exists():
            raise InputError(f"{page.notebook.name}: links to {path}, which does not exist")
        return file

    def _address(self, file: Path) -> str:
        """Where a file of the repository is read."""
        if self.repository is None:
            return Path(os.path.relpath(file, self.out)).as_posix()
        return f"{self.repository}/blob/{BRANCH}/{file.relative_to(self.root).as_posix()}"

    def _run(self, page: Page) -> dict[str, str]:
        """Name -> address of what runs a notebook without an installation."""
        match = GITHUB.fullmatch(self.repository or "")
        if match is None:
            return {}
        path = page.notebook.relative_to(self.root).as_posix()
        return {
            "Colab": f"https://colab.research.google.com/github/{match[1]}/blob/{BRANCH}/{path}",
            "Binder": f"https://mybinder.org/v2/gh/{match[1]}/{BRANCH}?labpath={path}",
        }


def write_api(out: Path) -> None:
    """Write what pdoc makes of the package's docstrings."""
    import pdoc

    import fss

    names = ["fss", *(found.name for found in pkgutil.walk_packages(fss.__path__, "fss."))]
    names.remove("fss.__main__")
    for module in map(import_module, names):
        for name in getattr(module, "__all__", ()):
            setattr(module, name, getattr(module, name))  # some are imported only when asked for, which pdoc does not
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about modules that a package's page lists already
        pdoc.pdoc(*names, output_directory=out)
    for path in out.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        path.write_text(FORMULA.sub(_mathml, page), encoding="utf-8")


def _mathml(found: re.Match[str]) -> str:
    block, inline = found.groups()
    return convert(html.unescape(block or inline), display="block" if block else "inline")


def _text(element: Tag) -> str:
    return " ".join(element.get_text().split())


def _caption(picture: Tag) -> str:
    """The emphasised beginning of the Markdown cell after a picture, or nothing."""
    cell = picture.find_next("div", class_="markdown")
    paragraph = cell.find("p") if cell else None
    beginning = paragraph.find("em") if paragraph else None
    if not (paragraph and beginning and _text(paragraph).startswith(_text(beginning))):
        return ""
    return _text(beginning)


def _head_tables(soup: BeautifulSoup) -> None:
    """Say of every head of a table what it heads; an empty row of heads goes."""
    for table in soup("table"):
        if table.thead and not _text(table.thead):
            table.thead.decompose()
            for row in table("tr"):
                row("td")[0].name = "th"
        for cell in table("th"):
            cell["scope"] = "col" if cell.find_parent("thead") else "row"


def _let_scroll(soup: BeautifulSoup) -> None:
    """Wrap what may be wider than a phone in a region that the keyboard reaches and scrolls."""
    wide = [(table, "table") for table in soup("table")]
    wide += [(equation, "equation") for equation in soup("math", display="block")]
    wide += [
        (block, "output" if block.find_parent(class_="outputs") else "code")
        for block in soup("pre")
        if max(map(len, block.get_text().splitlines()), default=0) > NARROW
    ]
    for element, name in wide:
        region = soup.new_tag("span" if name == "equation" else "div")  # it lies in a paragraph
        region.attrs = {"class": "scroll", "tabindex": "0", "role": "group", "aria-label": name}
        element.wrap(region)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the site."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument(
        "--repository",
        default=project.get("urls", {}).get("Repository"),
        help="public address; default: Repository of [project.urls] in pyproject.toml",
    )
    options = parser.parse_args(arguments)
    try:
        has_api = find_spec("pdoc") is not None
        pages = Site(ROOT, options.out, options.repository, api=has_api).write()
        if has_api:
            write_api(options.out / "api")
    except InputError as error:
        sys.exit(str(error))
    print(f"{options.out / 'index.html'}: {len(pages)} notebooks")


if __name__ == "__main__":
    main()
