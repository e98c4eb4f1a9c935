"""Collecting an importance matrix: what each weight matrix of a model is multiplied with, over a text."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from blockquant.errors import BlockquantError
from blockquant.imatrix import Entry, Imatrix
from blockquant.transformer.model import Model
from blockquant.transformer.session import Session
from blockquant.transformer.weights import FloatArray, Linear, Tensor, Weights
from blockquant.transformer.windows import Progress, Windows


class _Sums:
    """Of one tensor: the sum of squares of each column of what it was multiplied with, and how many rows there were.

    Both have a leading axis for the experts of a tensor that has a matrix for each.
    """

    def __init__(self, experts: int, columns: int) -> None:
        self.squares = np.zeros((experts, columns), np.float64)
        self.rows = np.zeros(experts, np.int64)

    def add(self, x: FloatArray, expert: int = 0) -> None:
        self.squares[expert] += np.einsum("rk,rk->k", x, x, dtype=np.float64)
        self.rows[expert] += len(x)


class _ObservedLinear(Linear):
    """A matrix that tells what it is multiplied with."""

    __slots__ = ("_sums",)

    def __init__(
        self, weight: Tensor, bias: FloatArray | None, threads: int, scale: float, sums: _Sums, pack: bool
    ) -> None:
        super().__init__(weight, bias, threads, scale, pack)
        self._sums = sums

    def __call__(self, x: FloatArray, out: FloatArray, chosen: npt.NDArray[np.int32] | None = None) -> FloatArray:
        if chosen is None:
            self._sums.add(x)
        else:
            for expert in np.unique(chosen):
                self._sums.add(x[chosen == expert], int(expert))
        return super().__call__(x, out, chosen)


class _ObservedWeights(Weights):
    """Hands out matrices that are observed."""

    def __init__(self, tensors: Mapping[str, Tensor], origin: str, threads: int, pack: bool = False) -> None:
        super().__init__(tensors, origin, threads, pack)
        self.sums: dict[str, _Sums] = {}

    def make_linear(self, name: str, weight: Tensor, bias: FloatArray | None, scale: float = 1.0) -> Linear:
        experts = weight.shape[0] if len(weight.shape) == 3 else 1
        sums = self.sums.setdefault(f"{name}.weight", _Sums(experts, weight.shape[-1]))
        return _ObservedLinear(weight, bias, self.threads, scale, sums, self._pack)


def collect(
    model: Model | str | os.PathLike[str],
    text: str,
    n_ctx: int = 512,
    chunks: int | None = None,
    output: bool = False,
    dataset: str = "",
    progress: Progress | None = None,
) -> Imatrix:
    """Collect an importance matrix as llama-imatrix does: same windows, sums and counts.

    For each weight matrix of the layers, the squares of what it is multiplied with are summed by column, over all
    positions of all windows. The sums are made in float64 and kept as float32.

    Args:
        model: a GGUF file or an open model; the less quantized the better.
        text: at least 2 * n_ctx tokens of what the model will see in use.
        n_ctx: tokens of a window, which llama.cpp calls a chunk.
        chunks: use the first so many windows only.
        output: collect for the output matrix, too.
        dataset: name of the text, which is kept in the file.
        progress: called as progress("collecting", windows done, windows).

    Raises ValueError for a short text or activations that are not finite, and what `Model.open` raises.
    """
    if not isinstance(model, Model):
        with Model.open(model) as opened:
            return collect(opened, text, n_ctx, chunks, output, dataset, progress)
    windows = Windows(model.tokenizer, text, n_ctx, chunks, "collecting")
    decoder, weights = model.build(_ObservedWeights)
    session = Session(decoder, n_ctx)
    for done, (ids, _) in enumerate(windows, 1):
        session.reset()
        for _ in session.eval_rows(ids, 0 if output else n_ctx):
            pass
        if progress is not None:
            progress("collecting", done, len(windows))
    entries = {}
    for name, sums in weights.sums.items():
        if not sums.rows.any() or not (name.startswith("blk.") or (output and name == "output.weight")):
            continue
        with np.errstate(over="ignore"):
            values = sums.squares.astype(np.float32)
        if not np.isfinite(values).all():
            raise BlockquantError(f"the activations of {name!r} are not finite: no importance can be collected")
        entries[name] = Entry(values if len(values) > 1 else values[0], sums.rows)
    return Imatrix(entries, [dataset] if dataset else [], len(windows), n_ctx)
