"""The CPU, its instruction sets, and threads."""

from __future__ import annotations

import operator
from typing import Any

from blockquant import _core


def available_isas() -> list[str]:
    """Instruction sets that this build and this CPU can run, best last: of baseline, avx2, avx_vnni,
    avx512, avx512_bf16, neon, neon_dotprod."""
    return list(_core.available_isas())


def set_isa(name: str) -> None:
    """Use the kernels of this instruction set from now on, in the whole process.

    Raises ValueError when this CPU or this build lacks it. The environment variable BLOCKQUANT_ISA does the same at
    start-up.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, one of {', '.join(available_isas())}; got {type(name).__name__}")
    if name not in available_isas():
        raise ValueError(f"cannot run instruction set {name!r} here; available: {', '.join(available_isas())}")
    _core.set_isa(name)


def cpu_info() -> dict[str, Any]:
    """What runs: "isa" in use, "available_isas", "features" of the CPU, "threads", "compiler" of the core."""
    return {
        "isa": _core.isa(),
        "available_isas": available_isas(),
        "features": list(_core.cpu_features()),
        "threads": _core.get_num_threads(),
        "compiler": _core.compiler(),
    }


def thread_count(threads: int | None) -> int:
    """The number that the core takes: 0 for the default."""
    if threads is None:
        return 0
    count = whole_number(threads, "threads")
    if count < 1:
        raise ValueError(f"threads must be at least 1, got {count}; None is the default")
    return min(count, 1024)


def whole_number(value: object, name: str) -> int:
    """value as an int; TypeError for what is no integer."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def get_num_threads() -> int:
    """Threads that kernels use when a call does not say: BLOCKQUANT_NUM_THREADS, else the CPUs of this process."""
    return int(_core.get_num_threads())


def set_num_threads(count: int | None) -> None:
    """Set the number of threads that kernels use when a call does not say; None goes back to what the environment
    says. Results never depend on it."""
    _core.set_num_threads(thread_count(count))
