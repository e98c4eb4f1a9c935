"""What the benchmarks share: timing in turn, describing the machine, tables, charts and bench/RESULTS.md."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import blockquant as bq
from ggml_native import Ggml, library_directory

RESULTS = Path(__file__).with_name("RESULTS.md")

Call = Callable[[], object]


SHORTEST = 0.003  # seconds: calls shorter than that are timed several at a time
LONG = 0.02  # seconds: beside that it takes no time to awaken threads


def in_turn(calls: Mapping[str, Call], seconds: float, rounds: int = 3, settle: float = 0.0) -> dict[str, float]:
    """Median seconds of each call, all taken in turn until the time is spent (at least `rounds` rounds).

    What disturbs the machine disturbs all of them, so the ratios hold where the figures do not. `settle` seconds before
    each call let the threads of the one before it go to sleep; its own are awakened by a call that is not timed, unless
    they are long.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    repeats: dict[str, int] = {}
    for name, call in calls.items():
        call()
        began = time.perf_counter()
        call()
        spent = time.perf_counter() - began
        repeats[name] = max(1, round(SHORTEST / spent)) if spent < LONG else 0
        if not repeats[name]:
            times[name].append(spent)
    end = time.perf_counter() + seconds * len(calls)
    done = 0
    while done < rounds or time.perf_counter() < end:
        over = time.perf_counter() >= end
        for name, call in calls.items():
            if over and len(times[name]) >= rounds:
                continue
            if settle:
                time.sleep(settle)
                if repeats[name]:
                    call()
            count = max(1, repeats[name])
            began = time.perf_counter()
            for _ in range(count):
                call()
            times[name].append((time.perf_counter() - began) / count)
        done += 1
    return {name: statistics.median(taken) for name, taken in times.items()}


def load_ggml(directory: str | None) -> Ggml | None:
    """llama.cpp built for this machine, or None after saying on stderr that it is absent."""
    try:
        return Ggml(library_directory(directory))
    except (SystemExit, OSError) as absent:
        print(f"without ggml's figures: {absent}", file=sys.stderr)
        return None


def cpu_name() -> str:
    """The CPU as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def where(threads: int, ggml: Ggml | Sequence[Ggml] | None) -> str:
    """CPU and the best it can, compiler, versions and date, one line."""
    built = [ggml] if isinstance(ggml, Ggml) else ggml or []
    others = [f"{other.version} built for this CPU" for other in built] or ["no ggml"]
    try:
        from importlib.metadata import version

        others.append(f"gguf-py {version('gguf')}")
    except ImportError:
        pass
    return (
        f"{cpu_name()} ({bq.available_isas()[-1]}), {threads} thread{'s' if threads > 1 else ''}, "
        f"blockquant {bq.__version__} "
        f"({bq.cpu_info()['compiler']}), {', '.join(others)}, {time.strftime('%Y-%m-%d')}"
    )


def cell(value: float | None, digits: int = 1, suffix: str = "") -> str:
    """A figure of a table; empty for one that was not taken."""
    return "" if value is None else f"{value:.{digits}f}{suffix}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as text too."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    line = lambda row: "| " + " | ".join(value.ljust(width) for value, width in zip(row, widths)) + " |"  # noqa: E731,B905
    return "\n".join([line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def replace_section(text: str, name: str, body: str) -> str:
    """text with what stands between the markers of this section replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    section = f"{begin}\n{body}\n{end}"
    if begin in text:
        return text[: text.index(begin)] + section + text[text.index(end) + len(end) :]
    return text.rstrip() + "\n\n" + section + "\n"


def record(name: str, body: str) -> None:
    """Put a section into bench/RESULTS.md, in the place of the one of that name."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Measured\n"
    RESULTS.write_text(replace_section(text, name, body), encoding="utf-8")


def need_matplotlib(option: str) -> None:
    """Stop, before anything is measured, where `option` cannot draw."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SystemExit(f"{option} needs matplotlib: pip install matplotlib")


def bar_chart(path: str, title: str, unit: str, panels: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Grouped bars on a logarithmic axis: panels[panel][series][format]. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {n for series in panels.values() for values in series.values() for n in values}
    names = [n for n in bq.formats if n in shown]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(max(8.0, 0.55 * len(names) + 2), 3.4 * len(panels)), squeeze=False, sharex=True
    )
    for axis, (panel, series) in zip(axes[:, 0], panels.items(), strict=True):
        width = 0.8 / max(1, len(series))
        for i, (label, values) in enumerate(series.items()):
            at = [n + (i - (len(series) - 1) / 2) * width for n, name in enumerate(names) if name in values]
            axis.bar(at, [values[name] for name in names if name in values], width, label=label)
        axis.set_yscale("log")
        axis.set_title(panel, loc="left", fontsize=10)
        axis.set_ylabel(unit)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        axis.legend(ncols=len(series), fontsize=8)
    axes[-1, 0].set_xticks(range(len(names)), names, rotation=60, ha="right")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


class Choices:
    """What the command line asked for."""

    def __init__(self, formats: list[str], isas: list[str], threads: list[int], args: argparse.Namespace) -> None:
        self.formats, self.isas, self.threads, self.args = formats, isas, threads, args
        self.seconds: float = args.seconds
        self.plot: str | None = args.plot
        self.write: bool = args.write
        self.ggml = load_ggml(args.ggml_lib)


def option_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser to which a benchmark adds options of its own."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def parse(parser: argparse.ArgumentParser, include_float: bool) -> Choices:
    """Add and read the options that the format benchmarks share."""
    parser.add_argument("--formats", default="", help="comma-separated; default: all that are implemented")
    parser.add_argument("--threads", default="", help="comma-separated counts; default: 1 and all CPUs")
    parser.add_argument("--isa", default="", help="comma-separated instruction sets; default: all of this CPU")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each figure")
    parser.add_argument("--quick", action="store_true", help="the best instruction set, one thread, short runs")
    parser.add_argument("--ggml-lib", help="directory of llama.cpp's libggml-*.so")
    parser.add_argument("--plot", metavar="FILE", help="draw a chart")
    parser.add_argument("--write", action="store_true", help=f"record whole tables in {RESULTS.name}")
    args = parser.parse_args()
    if args.plot:
        need_matplotlib("--plot")
    ready = [f.name for f in bq.formats.values() if f.implemented and (include_float or not f.is_float)]
    formats = [name for name in args.formats.split(",") if name] or ready
    isas = [name for name in args.isa.split(",") if name] or list(bq.available_isas())
    threads = [int(n) for n in args.threads.split(",") if n] or sorted({1, bq.get_num_threads()})
    for given, known, what in ((formats, ready, "format"), (isas, bq.available_isas(), "instruction set")):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown {what} {unknown[0]}; choose from {', '.join(known)}")
    if args.write and (args.formats or args.isa or args.quick):
        parser.error("--write records whole tables: leave out --formats, --isa and --quick")
    if args.quick:
        isas = isas[-1:]
        threads = threads[:1]
        args.seconds = min(args.seconds, 0.1)
    return Choices(formats, isas, threads, args)
