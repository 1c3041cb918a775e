#!/usr/bin/env python3
"""Every C++ and CUDA source is formatted with the repository's .clang-format. usage: check_format.py ROOT

Exits 77 (skipped) with the reason where clang-format is missing or is not of the major version the tree is formatted
with: other versions break lines differently.
"""

import pathlib
import re
import shutil
import subprocess
import sys

import check_tree

VERSION = 14  # Debian 12's
SKIPPED = 77


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    root = pathlib.Path(sys.argv[1]).resolve()
    tool = shutil.which(f"clang-format-{VERSION}") or shutil.which("clang-format")
    if not tool:
        print(f"skipped: clang-format {VERSION} is not installed")
        return SKIPPED
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"version (\d+)", version)
    if not match or int(match.group(1)) != VERSION:
        print(f"skipped: the tree is formatted with clang-format {VERSION}, here is {version.strip()}")
        return SKIPPED
    names = [name for name in check_tree.tracked_files(root)
             if pathlib.Path(name).suffix in (".cc", ".h", ".cu", ".cuh")]
    result = subprocess.run([tool, "--dry-run", "--Werror", "--ferror-limit=1", *names], cwd=root, capture_output=True,
                            text=True, check=False)
    wrong = sorted(set(re.findall(r"^([^\s:]+):\d+:\d+: error: code should be clang-formatted", result.stderr, re.M)))
    for name in wrong:
        print(f"{name}: not formatted; run clang-format -i {name}")
    print(f"{len(names)} files, {len(wrong)} not formatted")
    return 1 if result.returncode != 0 else 0


if __name__ == "__main__":
    sys.exit(main())
