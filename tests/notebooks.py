"""Notebooks that tests run, in a line each."""
from pathlib import Path

import nbformat

PYTHON = {"name": "python3", "display_name": "Python 3", "language": "python"}


def write_notebook(path: Path, *sources: str, tags=("parameters",), kernel=PYTHON) -> Path:
    "A notebook of code cells, whose first one has these tags"
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": list(tags) if index == 0 else []}) for index, source in enumerate(sources)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path
