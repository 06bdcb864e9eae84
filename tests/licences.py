"""The licences of everything that `constraints.txt` pins: `python tests/licences.py > docs/licences.md`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# Licences

What an installation brings besides this package (Apache-2.0), from the metadata of the releases in `constraints.txt`;
made by `python tests/licences.py > docs/licences.md`. Nothing of it is copied into this repository. The head that
is, under `tcurlora_seg/assets/head`, has [terms of its own](../tcurlora_seg/assets/head/README.md).

| package | release | licence |
|---|---|---|"""


def pinned() -> list[tuple[str, str]]:
    """Names and releases."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [(name, release) for name, _, release in (line.partition("==") for line in lines if "==" in line)]


def licence(name: str) -> str:
    """What a package's metadata says: an SPDX expression, else its classifiers, else the first line of its words."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    classifiers = [c.rpartition(" :: ")[2] for c in found.get_all("Classifier") or [] if c.startswith("License ::")]
    words = (found.get("License") or "").strip().splitlines()[:1]
    return found.get("License-Expression") or ", ".join(classifiers) or "".join(words) or "not said"


if __name__ == "__main__":
    print(HEAD)
    for name, release in pinned():
        print(f"| {name} | {release} | {licence(name)} |")
