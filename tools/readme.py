"""Make README.md from nbs/index.ipynb, without running it. With --check, only say whether README.md is current."""
import posixpath
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

from tree import ROOT

SOURCE = "nbs/index.ipynb"
IMAGES = "docs/readme"
NOTE = f"<!-- Made from {SOURCE} by `make readme`: edit the notebook. -->\n\n"
HIDDEN = re.compile(r"^\s*#\|\s*(hide|default_exp|exec_doc|include\s*:\s*false)\b", re.MULTILINE)
DIRECTIVE = re.compile(r"^\s*#\|.*\n?", re.MULTILINE)
LINK = re.compile(r"(\]\(|(?:src|href)=\")([^)\"\s]+)")
ABSOLUTE = re.compile(r"^([a-z][a-z0-9+.-]*:|/|#)", re.IGNORECASE)
# Figures and texts that GitHub shows; HTML only where there is nothing else, as GitHub drops its styles.
PRIORITY = ["text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/html", "text/plain"]


def from_root(
    text: str,  # Markdown whose links are relative to the notebook's folder
) -> str:  # the same with links relative to the repository's root
    "Rewrite relative links and images: the README lies one folder above its notebook"
    folder = posixpath.dirname(SOURCE)

    def rewrite(match):
        target = match[2]
        return match[1] + (target if ABSOLUTE.match(target) else posixpath.normpath(posixpath.join(folder, target)))

    return LINK.sub(rewrite, text)


def readme_files(
    root: Path = ROOT,  # the repository
) -> dict[str, bytes]:  # path relative to `root` -> content: README.md and its images
    "The README that the notebook makes"
    notebook = nbformat.read(root / SOURCE, as_version=4)
    notebook.metadata.setdefault("language_info", {"name": "python"})  # nbdev-clean drops it; fenced code needs it
    notebook.cells = [cell for cell in notebook.cells if not (cell.cell_type == "code" and HIDDEN.search(cell.source))]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = from_root(cell.source)
        elif cell.cell_type == "code":
            cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
    settings = Config({
        "NbConvertBase": {"display_data_priority": PRIORITY},
        "ExtractOutputPreprocessor": {"output_filename_template": "{unique_key}_{cell_index}_{index}{extension}"},
    })
    text, resources = MarkdownExporter(config=settings).from_notebook_node(
        notebook, {"unique_key": "output", "output_files_dir": IMAGES},
    )
    text = re.sub(r"<style.*?</style>\n?", "", text, flags=re.DOTALL)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return {"README.md": (NOTE + text).encode(), **resources.get("outputs", {})}


def main():
    made = readme_files()
    stale = [path for path, content in made.items() if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != content]
    surplus = [str(path.relative_to(ROOT)) for path in (ROOT / IMAGES).glob("*") if str(path.relative_to(ROOT)) not in made]
    if "--check" in sys.argv[1:]:
        if not stale + surplus:
            return print(f"README.md is what {SOURCE} makes.")
        print(f"Not what {SOURCE} makes: {', '.join(stale + surplus)}. Run `make readme`.")
        return 1
    for path in surplus:
        (ROOT / path).unlink()
    for path, content in made.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(content)
    print(f"README.md is made from {SOURCE}.")


if __name__ == "__main__":
    sys.exit(main())
