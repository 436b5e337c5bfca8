"""The files of the working tree, as git sees them: tracked ones and new ones that are not ignored."""
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {".git", ".venv", ".venv-bench", ".mlops", "demo", "wandb", "build", "dist", "__pycache__", ".ipynb_checkpoints"}


def tree_files(
    root: Path = ROOT,  # the repository, or an unpacked source archive of it
) -> list[str]:  # sorted paths relative to `root`
    "The files that belong to the project, without what git ignores"
    if (root / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=root, check=True, capture_output=True).stdout
        paths = [os.fsdecode(path) for path in listed.split(b"\0") if path]
    else:
        walked = (Path(folder, name).relative_to(root) for folder, _, names in os.walk(root) for name in names)
        hidden = {".pytest_cache", ".ruff_cache", ".import_linter_cache", ".hypothesis"}
        paths = [str(path) for path in walked if not (LEFT_OUT | hidden).intersection(path.parts) and ".egg-info" not in str(path)]
    return sorted(path for path in set(paths) if (root / path).is_file())


def tree_digests(
    root: Path = ROOT,  # the repository
) -> dict[str, str]:  # path -> sha256 of the content
    "What every file of the project holds"
    return {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in tree_files(root)}


def copy_tree(
    target: Path,  # a folder, made here
    root: Path = ROOT,  # the repository
) -> Path:  # `target`
    "Copy the project's files, without git and without what it ignores"
    for path in tree_files(root):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, target / path)
    return target


def changes(
    before: dict[str, str],  # `tree_digests` before
    after: dict[str, str],  # and after
) -> list[str]:  # sorted lines `changed PATH`, `new PATH`, `gone PATH`
    "What became different between two looks at the tree"
    return sorted(
        f"{'gone' if path not in after else 'new' if path not in before else 'changed'} {path}"
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path)
    )
