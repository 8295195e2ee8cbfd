"""Every notebook keeps the rules of `anatomy`, and each rule finds what it is for."""

from pathlib import Path

import nbformat
import pytest
from anatomy import RULES, WIDGET
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def complaints(notebook, path):
    nbformat.write(notebook, path)
    return {rule.__name__: found for rule in RULES if (found := rule(notebook, path))}


def test_the_course_begins_with_start_here():
    assert NOTEBOOKS and NOTEBOOKS[0].name == "00_start_here.ipynb"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, rule):
    assert rule(read(path), path) == []


@pytest.fixture
def sound():
    """The smallest notebook that keeps every rule."""

    def shown(mime, value):
        return [new_output("display_data", {mime: value, "text/plain": "<Figure with 1 Axes>"})]

    cells = [
        new_markdown_cell("# Title\n## First step"),
        new_code_cell('FAST = True\nSEED = 0\nDEVICE = "cpu"', metadata={"tags": ["parameters"]}),
        new_code_cell("draw()", outputs=shown("image/png", "aaaa")),
        new_markdown_cell("*A red square.*"),
        new_code_cell("slider", outputs=shown(WIDGET, {"model_id": "1"})),
        new_code_cell("1 / 1", outputs=[new_output("stream", text="1.0\n")]),
        new_markdown_cell("[up](#First-step), [next](other.ipynb), [web](https://example.org)"),
    ]
    for count, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def path(tmp_path):
    (tmp_path / "other.ipynb").touch()
    return tmp_path / "one.ipynb"


def test_sound_notebook_keeps_every_rule(sound, path):
    assert complaints(sound, path) == {}


BREAKS = {
    "is_valid: kernel": lambda n: n.metadata.kernelspec.update(name="mine"),
    "is_valid: cell": lambda n: n.cells[1].pop("source"),
    "is_of_no_machine: source": lambda n: n.cells[5].update(source="open('/home/me/x.png')"),
    "is_of_no_machine: output": lambda n: n.cells[5].outputs[0].update(text=r"C:\Users\me"),
    "is_of_no_machine: address": lambda n: n.cells[5].outputs[0].update(text="<X at 0x7f12ab34>"),
    "is_of_no_machine: widgets": lambda n: n.metadata.update(widgets={}),
    "is_of_no_machine: timing": lambda n: n.cells[1].metadata.update(execution={}),
    "ran_from_top_to_bottom: count": lambda n: n.cells[2].update(execution_count=None),
    "ran_from_top_to_bottom: order": lambda n: n.cells[2].update(execution_count=9),
    "ran_from_top_to_bottom: stderr": lambda n: n.cells[5].outputs[0].update(name="stderr"),
    "ran_from_top_to_bottom: tag": lambda n: n.cells[5].metadata.update(tags=["nbval-skip"]),
    "ran_from_top_to_bottom: error": lambda n: n.cells[5].outputs.append(
        new_output("error", ename="ValueError", evalue="", traceback=[])
    ),
    "compares: semicolon": lambda n: n.cells[5].update(source="plot();"),
    "compares: clear_output": lambda n: n.cells[5].update(source="clear_output()"),
    "compares: svg": lambda n: n.cells[2].outputs[0].data.update({"image/svg+xml": "<svg/>"}),
    "has_short_cells: longest": lambda n: n.cells[5].update(source="x\n" * 31),
    "has_short_cells: median": lambda n: [n.cells[i].update(source="x\n" * 7) for i in (2, 4, 5)],
    "has_parameters: tag": lambda n: n.cells[1].metadata.pop("tags"),
    "has_parameters: value": lambda n: n.cells[1].update(source='FAST = True\nDEVICE = "cpu"'),
    "has_captions: other text": lambda n: n.cells[3].update(source="**Next**"),
    "has_captions: no text": lambda n: n.cells.pop(3),
    "has_a_widget: none": lambda n: n.cells[4].outputs.clear(),
    "has_links_that_resolve: file": lambda n: n.cells[0].update(source="![x](none.png)"),
    "has_links_that_resolve: anchor": lambda n: n.cells[0].update(source="# First-step? no"),
    "leads_on: nowhere": lambda n: n.cells[6].update(source="The end."),
}


@pytest.mark.parametrize("name", BREAKS)
def test_rule_complains(name, sound, path):
    BREAKS[name](sound)
    if name == "is_valid: cell":  # the other rules, and the file, need a source
        assert RULES[0](sound, path) != []
    else:
        assert list(complaints(sound, path)) == [name.partition(":")[0]]
