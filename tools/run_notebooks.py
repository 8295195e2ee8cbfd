"""What `make run-all` and `make refresh` do, and notebooks written as plain text.

    python tools/run_notebooks.py build --out build -p SEED 1      run copies with papermill
    python tools/run_notebooks.py refresh notebooks/07*.ipynb      run in place, tidied, for a commit
    python tools/run_notebooks.py from-py draft.py notebooks/08_train_on_a_fold.ipynb
    python tools/run_notebooks.py to-py notebooks/08_train_on_a_fold.ipynb draft.py

The text form is jupytext's percent format: cells begin with `# %%`, `# %% [markdown]` or
`# %% tags=["parameters"]`.
"""

import argparse
import ast
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

WIDGET = "application/vnd.jupyter.widget-view+json"
FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
KERNEL = "python3"
QUIET = ["--log-level=CRITICAL"]  # else a kernel warns that its connection is not encrypted


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Remove, in place, what a machine or a run leaves behind: versions, times, widget state."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": KERNEL},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in ("jupyter", "tags") if key in cell.metadata}
        )
        for output in cell.get("outputs", ()):
            if WIDGET in output.get("data", {}):
                output.data[WIDGET].model_id = cell.id  # else another one in every run
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    """Write the notebook whole or not at all."""
    nbformat.validate(notebook)
    part = path.with_suffix(".part")
    part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    os.replace(part, path)


def from_py(source: Path, target: Path) -> None:
    """Turn a percent script into a notebook without outputs; a cell's id is its number."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    write(tidy(notebook), target)


def to_py(source: Path, target: Path) -> None:
    """Turn a notebook into a percent script; outputs are left out."""
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata = nbformat.from_dict({"jupytext": {"notebook_metadata_filter": "-all"}})
    target.write_text(jupytext.writes(notebook, fmt="py:percent"), encoding="utf-8")


def refresh(path: Path, timeout: int | None) -> None:
    """Run a notebook in its folder with the parameters that it holds, and keep the outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        kernel_name=KERNEL,
        timeout=timeout,
        coalesce_streams=True,  # else printed lines fall apart at other places in every run
        record_timing=False,
        store_widget_state=False,
        extra_arguments=QUIET,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    write(tidy(notebook), path)


def build(path: Path, folder: Path, timeout: int | None, parameters: dict[str, Any]) -> None:
    """Run a copy of a notebook with other parameters; raises SystemExit for an unknown name."""
    # papermill only warns of a parameter that no cell reads
    unknown = parameters.keys() - papermill.inspect_notebook(str(path)).keys()
    if unknown:
        sys.exit(f"{path.name} has no parameter {', '.join(sorted(unknown))}")
    folder.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        str(path),
        str(folder / path.name),
        parameters=parameters,
        kernel_name=KERNEL,
        cwd=str(path.parent),
        execution_timeout=timeout,
        progress_bar=False,
        extra_arguments=QUIET,
    )


@contextmanager
def timed(path: Path) -> Iterator[None]:
    """Print the notebook's name and its seconds; end the program at its first error."""
    print(f"{path.name} ...", end=" ", flush=True)
    start = time.perf_counter()
    try:
        yield
    except (CellExecutionError, PapermillExecutionError, TimeoutError) as error:
        sys.exit(f"failed\n{error}\nfailed: {path.name}")
    print(f"{time.perf_counter() - start:.0f} s", flush=True)


def literal(text: str) -> Any:
    """Read `False`, `0` or `1e-3` as Python does, and anything else as a string."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do as it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("refresh", "run in place"), ("build", "run copies")):
        command = commands.add_parser(name, help=about)
        command.add_argument("notebooks", nargs="*", type=Path, help="default: all")
        command.add_argument("--timeout", type=int, help="seconds that a cell may take")
        if name == "build":
            command.add_argument("--out", type=Path, default=Path("build"))
            command.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    for name, about in (("from-py", "script to notebook"), ("to-py", "notebook to script")):
        command = commands.add_parser(name, help=about)
        command.add_argument("source", type=Path)
        command.add_argument("target", type=Path)
    options = parser.parse_args(arguments)

    if options.command == "from-py":
        return from_py(options.source, options.target)
    if options.command == "to-py":
        return to_py(options.source, options.target)
    paths = [path.resolve() for path in options.notebooks] or sorted(FOLDER.glob("[0-9]*.ipynb"))
    if not paths:
        sys.exit(f"no notebook in {FOLDER}")
    for path in paths:
        with timed(path):
            if options.command == "refresh":
                refresh(path, options.timeout)
            else:
                parameters = {key: literal(value) for key, value in options.p}
                build(path, options.out, options.timeout, parameters)


if __name__ == "__main__":
    main()
