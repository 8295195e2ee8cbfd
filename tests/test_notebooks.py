"""Every notebook keeps the rules of `anatomy`, and each rule finds what it is for."""

from pathlib import Path

import nbformat
import pytest
from anatomy import RULES, STUB, WIDGET, symbols, tags
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


def test_one_letter_has_one_meaning():
    meanings = {}
    for path in NOTEBOOKS:
        for symbol, meaning in symbols(read(path)).items():
            meanings.setdefault(symbol, {}).setdefault(meaning, []).append(path.name)
    assert {symbol: found for symbol, found in meanings.items() if len(found) > 1} == {}


def numbered(notebook):
    """As if the cells that are run had been run once, from top to bottom."""
    ran = (c for c in notebook.cells if c.cell_type == "code" and "nbval-skip" not in tags(c))
    for count, cell in enumerate(ran, 1):
        cell.execution_count = count
    return notebook


@pytest.fixture
def sound():
    """The smallest notebook that keeps every rule."""

    def shown(mime, value):
        return [new_output("display_data", {mime: value, "text/plain": "<Figure with 1 Axes>"})]

    promise = "# 01 One\n**You will show that** it is so.\n"
    promise += "| Time | 5 minutes to read, 0 more to go deeper |\n| Read before | 00 |"
    told = "| Symbol | Meaning | Name in `fss` |\n|---|---|---|\n| $H, W$ | sides | |\n\n"
    told += "**Question.** Why?\n<summary>Answer</summary>"
    skipped = {"tags": sorted(STUB)}
    cells = [
        new_markdown_cell(promise + "\n## First step"),
        new_code_cell('FAST = True\nSEED = 0\nDEVICE = "cpu"', metadata={"tags": ["parameters"]}),
        new_code_cell("draw(FAST, SEED, DEVICE)", outputs=shown("image/png", "aaaa")),
        new_markdown_cell("*A red square.*\n" + told),
        new_code_cell("network_map()\nslider", outputs=shown(WIDGET, {"model_id": "1"})),
        new_code_cell("1 / 1", outputs=[new_output("stream", text="1.0\nx: 1e-09 (expected 0 ± 1e-06)\n")]),
        new_markdown_cell("## Exercise: half"),
        new_code_cell("def check(half):\n    assert half(2) == 1"),
        new_code_cell(
            'def half(x):\n    raise NotImplementedError("your line")\n\n\ncheck(half)',
            metadata=skipped,
        ),
        new_markdown_cell("<summary>Hint</summary>\n<summary>Solution</summary>"),
        new_code_cell("check(lambda x: x / 2)"),
        *(
            cell
            for _ in range(3)
            for cell in (
                new_code_cell("draw()", outputs=shown("image/png", "aaaa")),
                new_markdown_cell("*A red square.*"),
            )
        ),
        *(new_markdown_cell("Word.") for _ in range(7)),
        new_markdown_cell(
            "## What we did not show\n## Going deeper\n## References\n"
            "**Next:** [up](#First-step), [next](other.ipynb), [web](https://example.org)"
        ),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return numbered(new_notebook(cells=cells, metadata={"kernelspec": kernel}))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "other.ipynb").touch()
    return tmp_path / "one.ipynb"


def test_sound_notebook_keeps_every_rule(sound, path):
    assert complaints(sound, path) == {}


def replace(cell, old, new):
    assert old in cell.source
    cell.source = cell.source.replace(old, new)


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
    "prints_what_any_processor_prints: near zero": lambda n: n.cells[5].outputs[0].update(text="a 7e-09\n"),
    "prints_what_any_processor_prints: unrounded": lambda n: n.cells[5].outputs[0].update(text="0.1234567\n"),
    "prints_what_any_processor_prints: signed zero": lambda n: n.cells[5].outputs[0].update(text="[-0. 1]\n"),
    "prints_what_any_processor_prints: repr": lambda n: n.cells[5].outputs.append(
        new_output("execute_result", {"text/plain": "tensor([[1.0000, 0.5000]])"}, execution_count=4)
    ),
    "has_short_cells: longest": lambda n: n.cells[5].update(source="x\n" * 31),
    "has_short_cells: median": lambda n: [
        n.cells[i].update(source="network_map(), FAST, SEED, DEVICE\n" * 7) for i in (2, 4, 5, 11, 13, 15)
    ],
    "has_parameters: tag": lambda n: n.cells[1].metadata.pop("tags"),
    "has_parameters: dead": lambda n: n.cells[2].update(source="draw(FAST, DEVICE)"),
    "has_parameters: value": lambda n: n.cells[1].update(source='FAST = True\nDEVICE = "cpu"'),
    "is_long_enough: cells": lambda n: [n.cells.pop(-2) for _ in range(2)],
    "is_long_enough: pictures": lambda n: n.cells[11].outputs.clear(),
    "is_a_lesson_of_its_length: cells": lambda n: [n.cells.insert(-1, new_markdown_cell("")) for _ in range(20)],
    "is_a_lesson_of_its_length: claim": lambda n: replace(n.cells[0], "5 minutes", "9 minutes"),
    "is_a_lesson_of_its_length: words": lambda n: replace(n.cells[0], "so.", "so. " + "word " * 720),
    "is_a_lesson_of_its_length: deeper": lambda n: replace(
        n.cells[-1], "Going deeper\n", "Going deeper\n" + "word " * 720 + "\n"
    ),
    "asks_nothing_beside_the_point: imports": lambda n: n.cells[5].update(source="import math\n" * 9),
    "asks_nothing_beside_the_point: hook": lambda n: n.cells[5].update(source="x.register_forward_hook(f)"),
    "has_the_map: none": lambda n: replace(n.cells[4], "network_map()", ""),
    "names_its_symbols: no code": lambda n: replace(n.cells[3], "Name in `fss`", "Shape"),
    "names_its_symbols: none": lambda n: replace(n.cells[3], "| Symbol", "| Sign"),
    "has_the_skeleton: order": lambda n: (
        replace(n.cells[-1], "## What we did not show\n", "")
        or replace(n.cells[6], "##", "## What we did not show\n##")
    ),
    "has_the_skeleton: promise": lambda n: replace(n.cells[0], "You will show", "You shall see"),
    "has_the_skeleton: question": lambda n: replace(n.cells[3], "Question", "Puzzle"),
    "has_captions: other text": lambda n: replace(n.cells[3], "*A red square.*", "**Next**"),
    "has_captions: no text": lambda n: n.cells.insert(12, new_markdown_cell("Word.")),
    "has_a_widget: none": lambda n: n.cells[4].outputs.clear(),
    "has_a_widget: no twin": lambda n: n.cells[1].outputs.append(n.cells[4].outputs.pop()),
    "has_an_exercise: no stub": lambda n: [n.cells[8].metadata.clear(), numbered(n)],
    "has_an_exercise: passes": lambda n: replace(n.cells[8], "raise NotImplementedError", "print"),
    "has_an_exercise: not asked": lambda n: replace(n.cells[8], "check(half)", "check(max)"),
    "has_an_exercise: asks nothing": lambda n: replace(n.cells[7], "half(2) == 1", "True"),
    "has_an_exercise: no solution": lambda n: n.cells[10].update(source="1"),
    "has_links_that_resolve: file": lambda n: replace(n.cells[3], "Why?", "![x](none.png)"),
    "has_links_that_resolve: anchor": lambda n: replace(n.cells[0], "First step", "First"),
    "leads_on: nowhere": lambda n: replace(n.cells[-1], "(other.ipynb)", "(https://example.org)"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_rule_complains(name, sound, path):
    BREAKS[name](sound)
    if name == "is_valid: cell":  # the other rules, and the file, need a source
        assert RULES[0](sound, path) != []
    else:
        assert list(complaints(sound, path)) == [name.partition(":")[0]]
