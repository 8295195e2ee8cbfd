"""What holds for every notebook of the course: rules from a notebook to a list of complaints."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from urllib.parse import unquote

import nbformat
import papermill
from nbformat import NotebookNode

Rule = Callable[[NotebookNode, Path], list[str]]

# Papermill skips the first, nbval the second, and JupyterLab runs on after the third.
STUB = {"skip-execution", "nbval-skip", "raises-exception"}
LONGEST_CELL, MEDIAN_CELL = 30, 6
FEWEST_CELLS, MOST_CELLS, FEWEST_PICTURES = 25, 40, 4
MOST_IMPORTS = 8
WORDS_A_MINUTE, MINUTES_A_CELL, SLACK, LONGEST = 180, 0.5, 3, 45
# What every notebook has, in this order.
SKELETON = {
    "a title '# NN Name'": r"^# ",
    "what it is for, '**The question.** ...'": r"^\*\*(The question\.|You will show that)\*\* ",
    "a table with the time": r"^\| Time \|",
    "what to have read, in that table": r"^\| Read before \|",
    "'## Exercise: ...'": r"^## Exercise: ",
    "a folded hint": r"<summary>Hint</summary>",
    "a folded solution": r"<summary>Solution</summary>",
    "'## What we did not show'": r"^## What we did not show$",
    "'## References'": r"^## References$",
    "'**Next:**'": r"^\*\*Next:\*\*",
}
PARAMETERS = {"FAST": "True", "SEED": "0", "DEVICE": '"cpu"'}
WIDGET = "application/vnd.jupyter.widget-view+json"
# Paths of one machine, and addresses in default reprs: other readers and other runs have others.
OF_ONE_MACHINE = re.compile(r"(?<![\w./])/(home|private|root|tmp|Users|var|work)/|\b[A-Z]:\\|\b0x[0-9a-f]{6,}")
# What makes nbval see other outputs than JupyterLab does.
NOT_COMPARABLE = re.compile(r"\b(?:clear_output|interact|Output)\(|from tqdm import")

# Text that another processor prints otherwise: near zero, with all digits, or a zero with a sign.
OF_ROUNDING = re.compile(r"\de-\d|\d\.\d{6,}|(?<![\d.])-0\.?(?![\d.])")
FLOATS = re.compile(r"\b(?:tensor|array)\([^)]*\d\.[^)]*")
REPORTED = re.compile(r": \S+ \(expected .* ± ")  # compared by its tolerance


def code(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def texts(notebook: NotebookNode) -> Iterator[tuple[int, str]]:
    """Every text that a reader sees, with the number of its cell; pictures are left out."""
    for i, cell in enumerate(notebook.cells):
        yield i, cell.source
        for output in cell.get("outputs", ()):
            yield i, output.get("text", "")
            for kind, value in output.get("data", {}).items():
                if kind.startswith("text/"):
                    yield i, value


def is_valid(notebook: NotebookNode, path: Path) -> list[str]:
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        return [str(error).splitlines()[0]]
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    return [] if kernel == "python3" else [f"kernel is {kernel}, not python3"]


def is_of_no_machine(notebook: NotebookNode, path: Path) -> list[str]:
    found = [f"cell {i}: {match[0]!r}" for i, text in texts(notebook) if (match := OF_ONE_MACHINE.search(text))]
    found += [f"metadata.{key}" for key in ("papermill", "widgets") if key in notebook.metadata]
    if "version" in notebook.metadata.get("language_info", {}):
        found.append("metadata.language_info.version")
    found += [
        f"cell {i}: metadata {sorted(extra)}"
        for i, cell in enumerate(notebook.cells)
        if (extra := cell.metadata.keys() - {"jupyter", "tags"})
    ]
    return found


def ran_from_top_to_bottom(notebook: NotebookNode, path: Path) -> list[str]:
    ran = [cell for _, cell in code(notebook) if "skip-execution" not in tags(cell)]
    found = []
    if [cell.execution_count for cell in ran] != list(range(1, len(ran) + 1)):
        found.append("execution counts are not 1, 2, 3, ...: make refresh")
    for i, cell in code(notebook):
        if 0 < len(tags(cell) & STUB) < len(STUB):
            found.append(f"cell {i}: has only {sorted(tags(cell) & STUB)} of {sorted(STUB)}")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {i}: {output.get('ename') or output.text[:60]!r}")
    return found


def compares(notebook: NotebookNode, path: Path) -> list[str]:
    found = []
    for i, cell in code(notebook):
        if match := NOT_COMPARABLE.search(cell.source):
            found.append(f"cell {i}: {match[0]!r} breaks nbval")
        if cell.source.rstrip().endswith(";"):
            found.append(f"cell {i}: trailing ;")
        if any("image/svg+xml" in output.get("data", {}) for output in cell.outputs):
            found.append(f"cell {i}: SVG differs from run to run")
    return found


def prints_what_any_processor_prints(notebook: NotebookNode, path: Path) -> list[str]:
    found = []
    for i, cell in code(notebook):
        if "nbval-ignore-output" in tags(cell):
            continue
        for output in cell.outputs:
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            lines = "\n".join(line for line in text.splitlines() if not REPORTED.search(line))
            found += [f"cell {i}: prints {match[0]!r}" for match in [OF_ROUNDING.search(lines)] if match]
            if FLOATS.search(lines):
                found.append(f"cell {i}: the repr of an array of floats; round it and print it")
    return found


def has_short_cells(notebook: NotebookNode, path: Path) -> list[str]:
    lengths = {i: len(cell.source.splitlines()) for i, cell in code(notebook)}
    found = [f"cell {i}: {n} lines" for i, n in lengths.items() if n > LONGEST_CELL]
    middle = median(lengths.values())
    return found + ([f"median cell {middle} lines"] if middle > MEDIAN_CELL else [])


def has_parameters(notebook: NotebookNode, path: Path) -> list[str]:
    cells = [i for i, cell in code(notebook) if "parameters" in tags(cell)]
    if len(cells) != 1:
        return [f"{len(cells)} cells tagged parameters, not 1"]
    defaults = {k: v["default"] for k, v in papermill.inspect_notebook(str(path)).items()}
    read_later = {
        node.id
        for i, cell in code(notebook)
        if i > cells[0]
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name)
    }
    return [
        f"cell {cells[0]}: {name} = {defaults.get(name)}, not {value}"
        for name, value in PARAMETERS.items()
        if defaults.get(name) != value
    ] + [f"cell {cells[0]}: nothing reads {name}" for name in defaults.keys() - read_later]


def has_captions(notebook: NotebookNode, path: Path) -> list[str]:
    found = []
    for i, cell in code(notebook):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            following = notebook.cells[i + 1 : i + 2]
            if not (following and re.match(r"\*[^*\s]", following[0].source)):
                found.append(f"cell {i}: no caption (*...*) in the Markdown cell after the picture")
    return found


def shown(notebook: NotebookNode, kind: str) -> list[int]:
    """The cells that show something of a MIME type."""
    return [i for i, cell in code(notebook) if any(kind in output.get("data", {}) for output in cell.outputs)]


def has_a_widget(notebook: NotebookNode, path: Path) -> list[str]:
    found = shown(notebook, WIDGET)
    if not found:
        return ["no widget"]
    pictures = shown(notebook, "image/png")
    return [
        f"cell {i}: no picture stands above the widget, for who has no kernel"
        for i in found[:1]
        if not any(picture < i for picture in pictures)
    ]


def is_long_enough(notebook: NotebookNode, path: Path) -> list[str]:
    cells, pictures = len(notebook.cells), len(shown(notebook, "image/png"))
    found = [] if cells >= FEWEST_CELLS else [f"{cells} cells, fewer than {FEWEST_CELLS}"]
    return found + ([] if pictures >= FEWEST_PICTURES else [f"{pictures} pictures, fewer than {FEWEST_PICTURES}"])


def has_the_skeleton(notebook: NotebookNode, path: Path) -> list[str]:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found, place = [], 0
    for name, pattern in SKELETON.items():
        match = re.compile(pattern, re.M).search(text, place)
        if match:
            place = match.end()
        else:
            found.append(f"no {name}, or not in its place")
    if not re.search(r"\*\*Question\.\*\*[^#]*?<summary>Answer</summary>", text):
        found.append("no **Question.** with a folded answer")
    return found


def has_an_exercise(notebook: NotebookNode, path: Path) -> list[str]:
    """A stub that fails its test as long as it is one, and a solution that ran it."""
    trees = {i: ast.parse(cell.source) for i, cell in code(notebook)}
    stubs = [i for i, cell in code(notebook) if "skip-execution" in tags(cell)]
    tests = {
        f.name: f
        for tree in trees.values()
        for f in tree.body
        if isinstance(f, ast.FunctionDef) and f.name.startswith("check")
    }
    found = [] if stubs else ["no stub tagged skip-execution"]
    for i in stubs:
        calls = _calls(trees[i])
        asked = {argument for test in tests for argument in calls.get(test, ())}
        functions = [f for f in trees[i].body if isinstance(f, ast.FunctionDef)]
        for f in functions:
            if not (isinstance(f.body[-1], ast.Raise) and "NotImplemented" in ast.dump(f.body[-1])):
                found.append(f"cell {i}: {f.name} does not end with raise NotImplementedError")
            if f.name not in asked:
                found.append(f"cell {i}: no check is called with {f.name}")
        for test in tests.keys() & calls.keys():
            untried = {a.arg for a in tests[test].args.args} - _calls(tests[test]).keys()
            found += [f"{test} never calls its argument {name}" for name in sorted(untried)]
            if not any(test in _calls(tree) for j, tree in trees.items() if j > i):
                found.append(f"cell {i}: no later cell runs {test} on a solution")
    return found


def _calls(tree: ast.AST) -> dict[str, list[str]]:
    """Functions that are called by name, with the names that they are called with."""
    return {
        node.func.id: [argument.id for argument in node.args if isinstance(argument, ast.Name)]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def links(notebook: NotebookNode) -> Iterator[tuple[int, str]]:
    """Links and picture sources in Markdown that stay inside the repository."""
    pattern = re.compile(r"\]\(<?([^)\s>]+)|(?:href|src)=[\"']([^\"']+)")
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for match in pattern.finditer(re.sub(r"`[^`\n]*`|\$[^$]*\$", "", cell.source)):
                target = match[1] or match[2]
                if not re.match(r"[a-z]+:", target):
                    yield i, target


def headings(notebook: NotebookNode) -> set[str]:
    """Anchors as JupyterLab makes them: the heading with hyphens for spaces."""
    sources = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return {title.replace(" ", "-") for title in re.findall(r"^#+ +(.+?)\s*$", sources, re.M)}


def has_links_that_resolve(notebook: NotebookNode, path: Path) -> list[str]:
    found = []
    for i, link in links(notebook):
        target, _, anchor = unquote(link).partition("#")
        if target and not (path.parent / target).exists():
            found.append(f"cell {i}: {link} does not exist")
        elif not target and anchor not in headings(notebook):
            found.append(f"cell {i}: no heading #{anchor}")
    return found


def leads_on(notebook: NotebookNode, path: Path) -> list[str]:
    last = len(notebook.cells) - 1
    targets = [Path(target).name for i, target in links(notebook) if i == last]
    if any(name.endswith(".ipynb") or name == "README.md" for name in targets):
        return []
    return ["the last cell links to no notebook and not to README.md"]


def is_a_lesson_of_its_length(notebook: NotebookNode, path: Path) -> list[str]:
    """Not too long, and the time that it claims is the time that it takes."""
    found = [] if len(notebook.cells) <= MOST_CELLS else [f"{len(notebook.cells)} cells, more than {MOST_CELLS}"]
    deeper = [i for i, cell in enumerate(notebook.cells) if re.search(r"^## Going deeper$", cell.source, re.M)]
    if not deeper:
        return [*found, "no '## Going deeper'"]
    claims = re.search(r"(\d+) minutes to read, (\d+) more to go deeper", notebook.cells[0].source)
    if not claims:
        return [*found, "cell 0: no 'N minutes to read, M more to go deeper'"]
    first = notebook.cells[deeper[0]].source
    lesson, rest = re.split(r"^## Going deeper$", first, maxsplit=1, flags=re.M)
    parts = [*notebook.cells[: deeper[0]], {"cell_type": "markdown", "source": lesson}]
    after = [{"cell_type": "markdown", "source": rest}, *notebook.cells[deeper[0] + 1 :]]
    for name, claimed, cells in (("read", claims[1], parts), ("go deeper", claims[2], after)):
        minutes = sum(
            MINUTES_A_CELL if cell["cell_type"] == "code" else len(prose(cell["source"]).split()) / WORDS_A_MINUTE
            for cell in cells
        )
        if abs(minutes - int(claimed)) > SLACK:
            found.append(f"cell 0: {claimed} minutes to {name}, but its words and cells take {minutes:.0f}")
        if name == "read" and minutes > LONGEST:
            found.append(f"{minutes:.0f} minutes to read, more than {LONGEST}")
    return found


def prose(markdown: str) -> str:
    """Markdown without pictures that are written into it."""
    return re.sub(r"data:image[^)\"']*", "", markdown)


def asks_nothing_beside_the_point(notebook: NotebookNode, path: Path) -> list[str]:
    """Few imports, no hooks, no counters of operations; the kit's own controls."""
    trees = [(i, ast.parse(cell.source)) for i, cell in code(notebook)]
    imports = [node for _, tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    found = [f"{len(imports)} imports, more than {MOST_IMPORTS}"] if len(imports) > MOST_IMPORTS else []
    beside = re.compile(r"register_\w*hook|\w*DispatchMode|FlopCounterMode|import ipywidgets|BytesIO")
    return found + [
        f"cell {i}: {m[0]!r} is beside the point" for i, c in code(notebook) if (m := beside.search(c.source))
    ]


def has_the_map(notebook: NotebookNode, path: Path) -> list[str]:
    drawn = [i for i, cell in code(notebook) if "network_map(" in cell.source and "import" not in cell.source]
    return [] if drawn and drawn[0] <= 12 else ["no network_map(...) among the first cells"]


def symbols(notebook: NotebookNode) -> dict[str, str]:
    """The symbols of the notebook's table, with what they mean; the table also names them in code."""
    found = {}
    for cell in notebook.cells:
        for table in re.findall(r"^\| Symbol \| Meaning \|.* Name .*\n((?:\|.*\n?)*)", cell.source, re.M):
            for row in table.splitlines()[1:]:
                names, meaning = row.strip("|").split("|")[:2]
                found |= {name.strip(" $"): " ".join(meaning.split()) for name in names.split(",")}
    return found


def names_its_symbols(notebook: NotebookNode, path: Path) -> list[str]:
    return [] if symbols(notebook) else ["no table '| Symbol | Meaning | ... | Name in `fss` |'"]


RULES: list[Rule] = [
    is_valid,
    is_of_no_machine,
    ran_from_top_to_bottom,
    compares,
    prints_what_any_processor_prints,
    has_short_cells,
    has_parameters,
    is_long_enough,
    has_the_skeleton,
    has_captions,
    has_a_widget,
    has_an_exercise,
    has_links_that_resolve,
    leads_on,
    names_its_symbols,
    is_a_lesson_of_its_length,
    asks_nothing_beside_the_point,
    has_the_map,
]
