#!/usr/bin/env python3
"""Rules about the tree that a compiler does not check. usage: check_tree.py ROOT

Prints every violation and exits 1 if there is one. Shell scripts are parsed with `bash -n`, and with shellcheck where it
is installed.
"""

import pathlib
import re
import shutil
import subprocess
import sys

MAX_LINES = 500
SOURCES = {".cc", ".h", ".cu", ".cuh", ".py", ".sh", ".proto"}
# Written so that this file does not match itself.
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")
# Definitions of public protocols, kept as their owners wrote them.
FOREIGN = ("proto/standard/",)
# Sample texts, which may say anything.
TEXTS = ("tests/golden/",)


def tracked_files(root):
    """Files git knows or would add; without git, everything outside build folders."""
    try:
        listed = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard"], check=True,
                                capture_output=True, text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        listed = [path.relative_to(root).as_posix() for path in root.rglob("*")
                  if not {"build", ".git", "__pycache__"} & set(path.relative_to(root).parts)]
    return sorted(name for name in listed if name and (root / name).is_file())


def is_shell(path):
    if path.suffix == ".sh":
        return True
    with open(path, "rb") as file:
        return not path.suffix and file.readline().startswith((b"#!/usr/bin/env bash", b"#!/bin/bash", b"#!/bin/sh"))


def check_sources(root, names):
    for name in names:
        if pathlib.Path(name).suffix not in SOURCES or name.startswith(FOREIGN):
            continue
        lines = (root / name).read_text(encoding="utf-8", errors="replace").split("\n")
        if len(lines) - 1 > MAX_LINES:
            yield f"{name}: {len(lines) - 1} lines; split it (at most {MAX_LINES})"
        for number, line in enumerate(lines, 1):
            if UNFINISHED.search(line) and not name.startswith(TEXTS):
                yield f"{name}:{number}: unfinished work: {line.strip()}"


def check_readmes(root, names):
    folders = {pathlib.PurePosixPath(name).parent for name in names if pathlib.Path(name).suffix in SOURCES}
    folders |= {parent for folder in folders for parent in folder.parents}
    for folder in sorted(folders):
        path = folder.as_posix()
        # A .proto folder path repeats the package name: one README at the top of proto/ speaks for all of it.
        if path.startswith(("proto/", "tests/golden/")):
            continue
        readme = root / folder / "README.md"
        if not readme.is_file():
            yield f"{path}/: has no README.md"
        elif len(readme.read_text(encoding="utf-8").split()) < 12:
            yield f"{path}/README.md: says nothing about the folder's purpose"


def check_scripts(root, names):
    shellcheck = shutil.which("shellcheck")
    scripts = [name for name in names if is_shell(root / name)]
    for name in scripts:
        commands = [["bash", "-n", name]]
        if shellcheck:
            commands.append([shellcheck, "--severity=warning", name])
        for command in commands:
            result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                yield f"{name}: {command[0]}: {(result.stdout + result.stderr).strip()}"
    if not shellcheck:
        print("shellcheck is not installed: shell scripts were only parsed")


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    root = pathlib.Path(sys.argv[1]).resolve()
    names = tracked_files(root)
    violations = [*check_sources(root, names), *check_readmes(root, names), *check_scripts(root, names)]
    for violation in violations:
        print(violation)
    print(f"{len(names)} files, {len(violations)} violations")
    return 1 if violations or not names else 0


if __name__ == "__main__":
    sys.exit(main())
