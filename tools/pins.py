"""Print constraints.txt for what is installed here: the exact version of everything that `mlops_nb[dev]` brings in.

    .venv/bin/python tools/pins.py > pins && mv pins constraints.txt

Lines with a marker, for other Python versions than this one, are kept as they are.
"""
import tomllib
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tree import ROOT

HEADER = """\
# The exact versions that the tests ran with: `pip install -c constraints.txt ...` installs these and no others.
# Made by tools/pins.py. torch is pinned without its build, which the package index at hand decides (CPU or CUDA); a CUDA
# build pins its NVIDIA packages itself.
"""


def declared() -> list[str]:  # requirement lines
    "What pyproject.toml asks for, extras included"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["dependencies"] + sum(project["optional-dependencies"].values(), [])


def needs_of(
    found: Distribution,
    extras: frozenset[str],  # of the distribution that are wanted
) -> list[Requirement]:
    "What a distribution asks for here; the CUDA packages of torch's CUDA builds are left to torch, which pins them itself"
    needs = [Requirement(line) for line in found.requires or []]
    needs = [need for need in needs if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in extras | {""})]
    return [need for need in needs if found.metadata["Name"] != "torch" or not need.name.startswith(("cuda", "nvidia", "triton"))]


def installed_tree() -> dict[str, str]:  # name -> version
    "Every distribution that the declared ones need here, directly or not"
    tree, seen, waiting = {}, set(), [Requirement(line) for line in declared()]
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key not in seen:
            seen.add(key)
            found = distribution(wanted.name)
            tree[found.metadata["Name"]] = found.version.partition("+")[0]
            waiting += needs_of(found, key[1])
    return tree


def pin_lines() -> list[str]:
    "The lines of constraints.txt, sorted by name"
    constraints = ROOT / "constraints.txt"
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.exists() else []
    kept = [line for line in lines if "; python_version" in line]
    marked = {line.partition("==")[0] for line in kept}
    pinned = [f"{name}=={version}" for name, version in installed_tree().items() if name not in marked]
    return sorted(pinned + kept, key=str.lower)


if __name__ == "__main__":
    print(HEADER + "\n".join(pin_lines()))
