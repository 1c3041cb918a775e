"""What the speed scripts share: running lift-bench, and writing one result as text, JSON and SVG."""

import html
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

CACHE = pathlib.Path(os.environ.get("LIFT_BENCH_CACHE", pathlib.Path.home() / ".cache/liftserve/synthetic"))


def device():
    """The machine in words."""
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.machine()}, {os.cpu_count()} cores"


def commit():
    done = subprocess.run(["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def synthetic(programs, spec, plain=False):
    """Path of the lifted file of SHAPE:BITS, made once; a process of its own, so that its memory is not measured."""
    path = CACHE / (spec.replace(":", "-").replace(",", "_") + ("-plain" if plain else "") + ".lift")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        command = [programs / "lift-bench", "--synthetic", spec, "--save", partial, "--batch", "1", "--context", "16",
                   "--prefill", "1", "--seconds", "0.01", *(["--plain"] if plain else [])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        partial.rename(path)
    return path


def run(command, limit_bytes=0):
    """(exit code, stdout, stderr, peak RSS in bytes, seconds) of a command, its address space limited if asked for."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))

    start = time.monotonic()
    # A pipe that nobody reads would stop a program that says much on stderr.
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=errors, text=True,
                                   preexec_fn=limit if limit_bytes else None)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        errors.seek(0)
        err = errors.read()
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, out, err, usage.ru_maxrss * 1024, time.monotonic() - start


def run_json(command, limit_bytes=0):
    code, out, err, peak, seconds = run(command, limit_bytes)
    if code != 0:
        raise RuntimeError(f"{' '.join(str(c) for c in command)} exited {code}: {err.strip().splitlines()[-1:]}")
    return json.loads(out), peak, seconds


def text_table(rows):
    """Aligned columns of a list of dicts with the same keys."""
    if not rows:
        return ""

    def cell(value):
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    columns = list(rows[0])
    widths = [max(len(c), *(len(cell(r[c])) for r in rows)) for c in columns]
    lines = ["  ".join(c.rjust(w) for c, w in zip(columns, widths))]
    lines += ["  ".join(cell(r[c]).rjust(w) for c, w in zip(columns, widths)) for r in rows]
    return "\n".join(lines)


def bars_svg(title, bars, unit, mark=None):
    """One horizontal bar for each (label, value); `mark` draws a line at a goal."""
    top = max([value for _, value in bars] + ([mark] if mark else [])) or 1
    height = 44 + 24 * len(bars)
    out = [f"<svg xmlns='http://www.w3.org/2000/svg' width='820' height='{height}' font-family='sans-serif' "
           f"font-size='13'><rect width='820' height='{height}' fill='white'/>"
           f"<text x='10' y='22' font-size='15'>{html.escape(title)}</text>"]
    for i, (label, value) in enumerate(bars):
        y = 40 + 24 * i
        width = max(1, 430 * value / top)
        out.append(f"<text x='250' y='{y + 13}' text-anchor='end'>{html.escape(str(label))}</text>"
                   f"<rect x='260' y='{y}' width='{width:.1f}' height='18' fill='#4c78a8'/>"
                   f"<text x='{266 + width:.1f}' y='{y + 13}'>{value:.3g} {html.escape(unit)}</text>")
    if mark:
        x = 260 + 430 * mark / top
        out.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='34' y2='{height - 6}' stroke='#e45756' stroke-dasharray='4'/>")
    return "\n".join(out) + "\n</svg>\n"


def publish(name, result, tables, plots, folder):
    """Prints the tables; with a folder also writes NAME.txt, NAME.json and NAME-PLOT.svg there."""
    result = {"device": device(), "commit": commit(), "command": " ".join(sys.argv), **result}
    text = "\n\n".join([f"{result['device']}; commit {result['commit']}; {result['command']}"]
                       + [f"{title}\n{text_table(rows)}" for title, rows in tables]) + "\n"
    print(text, end="")
    if folder:
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        for plot, svg in plots.items():
            (folder / f"{name}-{plot}.svg").write_text(svg, encoding="utf-8")
