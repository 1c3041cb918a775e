#!/usr/bin/env bash
# Makes the calibration and evaluation texts from Debian documentation packages and prints their folder on stdout.
# The packages are downloaded and unpacked into the cache folder, never installed, so any user can run this.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# "a|b": the first name this distribution has.
PACKAGES=(
  debian-reference-en debian-faq developers-reference debian-history doc-debian
  "python3.11-doc|python3.12-doc|python3.13-doc" git-doc manpages gnome-user-docs
  fortunes fortunes-min colossal-cave-adventure wordnet-base
)

if [ $# -gt 0 ]; then
  echo "usage: deploy/fetch_corpus.sh"
  echo "Writes calib.txt, calib.jsonl and eval.txt to \$LIFTSERVE_CACHE/corpus and prints that folder."
  case "$1" in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi

scripts="$LIFTSERVE_ROOT/deploy/corpus"
folder="$LIFTSERVE_CACHE/corpus"
wanted=$(cat "${BASH_SOURCE[0]}" "$scripts/extract.py" "$scripts/mix.py" | sha256sum | cut -d' ' -f1)
if [ -f "$folder/made_by" ] && [ "$(cat "$folder/made_by")" = "$wanted" ]; then
  echo "$folder"
  exit 0
fi

mkdir -p "$LIFTSERVE_CACHE"
scratch=$(mktemp -d "$LIFTSERVE_CACHE/.corpus.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/debs" "$scratch/packages" "$scratch/out"

# apt as this user: the sandbox user could not write into our folder.
apt_options=(-qq -o "APT::Sandbox::User=$(id -un)")
# Own package lists, for a system whose lists are missing (container images) or out of date.
use_private_lists() {
  mkdir -p "$scratch/apt/lists/partial" "$scratch/apt/cache/archives/partial"
  apt_options+=(-o "Dir::State::Lists=$scratch/apt/lists" -o "Dir::Cache=$scratch/apt/cache")
  apt-get "${apt_options[@]}" update >&2 || say "warning: apt-get update reported errors; going on with what it has"
}
# The names among the arguments that can be downloaded, not only are installed.
available() {
  apt-cache "${apt_options[@]}" show --no-all-versions "$@" 2>/dev/null |
    awk '/^Package:/ { name = $2 } /^Filename:/ { print name }' || true
}

download_all() {
  local known choice name chosen=()
  # shellcheck disable=SC2048,SC2086  # the alternatives become separate words
  known=" $(available ${PACKAGES[*]//|/ } | tr '\n' ' ') "
  for choice in "${PACKAGES[@]}"; do
    for name in ${choice//|/ }; do
      if [ "${known#* "$name" }" != "$known" ]; then
        chosen+=("$name")
        break
      fi
    done
  done
  [ ${#chosen[@]} -ge $((${#PACKAGES[@]} - 2)) ] || return 1
  (cd "$scratch/debs" && apt-get "${apt_options[@]}" download "${chosen[@]}" >&2)
}

say "downloading ${#PACKAGES[@]} documentation packages (about 40 MB)"
if ! download_all; then
  use_private_lists
  download_all || die "the documentation packages cannot be downloaded: check the network and the apt sources"
fi
for deb in "$scratch"/debs/*.deb; do
  name=$(basename "$deb")
  dpkg-deb -x "$deb" "$scratch/packages/${name%%_*}"
done
python3 "$scripts/mix.py" "$scratch/packages" "$scratch/out" || die "no corpus could be made; see the message above"
echo "$wanted" >"$scratch/out/made_by"
rm -rf "$folder"
mv "$scratch/out" "$folder"
echo "$folder"
