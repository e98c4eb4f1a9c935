"""`quantize_file`: plan, journal, pipeline, and the names at the end."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from blockquant import gguf, recipes
from blockquant.errors import BlockquantError
from blockquant.imatrix import Imatrix, match_weights, take
from blockquant.quantizer import pipeline, steps
from blockquant.quantizer.journal import Journal, Source, identity, journal_path, remove_files
from blockquant.quantizer.output import FULL, Output, check_target
from blockquant.quantizer.plan import (
    PathLike,
    changed,
    check,
    file_order,
    output_files,
    output_metadata,
    requantized,
    tensor_reports,
)
from blockquant.quantizer.report import QuantizationReport, size_text
from blockquant.recipes.planner import Overrides

Progress = Callable[[str, int, int], None]


def quantize_file(
    source: PathLike,
    target: PathLike | None,
    recipe: str | os.PathLike[str] | recipes.Recipe,
    imatrix: PathLike | Mapping[str, Any] | None = None,
    overrides: Overrides | None = None,
    pure: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    allow_requantize: bool = False,
    dry_run: bool = False,
    *,
    keep_split: bool = False,
    max_shard_size: int | str | None = None,
    resume: bool = False,
    keep_partial: bool = False,
) -> QuantizationReport:
    """Quantize a GGUF file by a recipe; the file is the one that llama-quantize writes, byte for byte.

    source: an F32, F16 or BF16 file, or the first shard of one.
    target: appears when it is whole; until then the data is in `TARGET.partial`, and `TARGET.journal` says how far it
        is. May be None in a dry run.
    recipe: a llama.cpp file type, a .toml file, or a `Recipe`.
    overrides, pure, output_tensor_type, token_embedding_type: see `recipes.plan`.
    imatrix: a file, an `Imatrix`, or {tensor name: float [K] or [E, K]}.
    threads: default `get_num_threads()`; the bytes do not depend on it.
    progress: called as progress(tensor name, source bytes done, source bytes in all).
    allow_requantize: decode tensors that are already quantized, which loses quality twice.
    dry_run: choose formats and add up sizes, write nothing. Tensors that need an importance matrix and quantized input
        are reported instead of refused.
    keep_split: a set of shards becomes a set with the same tensors in each shard, TARGET-00001-of-0000N.gguf.
    max_shard_size: bytes, or such as "5G": larger outputs become a set of shards whose tensors take at most this.
    resume: go on where a killed or failed run with the same source, recipe, options and importance matrix stopped;
        without such a run, begin. Implies keep_partial.
    keep_partial: keep the partial file and the journal after an error, such as a full disk, for `resume`. A killed
        process leaves them in any case; another run for the same target without `resume` starts over.

    Memory does not grow with the model: a few pieces of four million elements, and the importance matrix.

    Raises ValueError before anything is written: unknown recipe or format, a format that this version cannot encode,
    an importance matrix that is missing or of another model, quantized input, a journal of other work, a target that
    another process is writing. NaN or infinity in a tensor: ValueError. No room on the disk: OSError, as a rule before
    the work starts.
    """
    chosen = recipes.get(recipe)
    origin = Path(source)
    if target is None and not dry_run:
        raise BlockquantError("quantize_file needs a target file, unless dry_run is set")
    if keep_split and max_shard_size is not None:
        raise BlockquantError("keep_split keeps the input's shards: leave out max_shard_size, or keep_split")
    with gguf.open(origin) as file:
        matrix = take(imatrix)
        choices = recipes.explain(
            file.tensor_infos,
            chosen,
            file.metadata,
            list(matrix) if matrix else None,
            overrides,
            pure,
            output_tensor_type,
            token_embedding_type,
            file_order(file, keep_split),
        )
        reports = tensor_reports(file, choices)
        twice = requantized(file, choices)
        metadata = output_metadata(file, chosen.file_type, matrix)
        place = Path(target) if target is not None else origin.with_name("out.gguf")
        files = output_files(place, metadata, file, reports, keep_split, max_shard_size)
        file_bytes = sum(f.size for f in files)
        paths = tuple(f.name for f in files) if target is not None else ()
        if dry_run or target is None:
            found = match_weights(matrix, changed(file, choices))
            missing, plain = tuple(c.name for c in found.lacking), found.unweighted
            return QuantizationReport(origin, None, chosen.name, reports, missing, 0.0, file_bytes, paths, twice, plain)
        check_target(files, [*file.paths, *_other_inputs(chosen, imatrix)], journal_path(place))
        weights, plain = check(file, choices, chosen.name, matrix, allow_requantize)
        started = time.perf_counter()
        origin_state = Source(file)
        wanted = identity(origin_state, chosen.name, weights, files, steps.PIECE)
        output, journal = Output(files), Journal(journal_path(place))
        counter = _Counter(sum(t.source_bytes for t in reports), progress)

        def all_steps() -> Iterator[steps.Step]:
            return steps.steps_of(file, choices, files, weights)

        keep = keep_partial or resume
        try:
            _begin(output, journal, wanted, resume)
            for step in islice(all_steps(), journal.steps):
                counter.skip(step)
            if not journal.is_finished:
                pipeline.Pipeline(file, all_steps, output, journal, threads, counter.add).run()
                origin_state.check_unchanged()
                if time.perf_counter() - started > pipeline.CHECKPOINT:
                    output.sync()
                journal.finish()
            output.commit()
            journal.remove()
        except BaseException as error:
            kept = _give_up(output, journal, keep)
            if isinstance(error, OSError) and error.errno in FULL:
                raise _no_room(error, place, file_bytes, kept) from None
            raise
    seconds = time.perf_counter() - started
    return QuantizationReport(
        origin,
        place,
        chosen.name,
        reports,
        (),
        seconds,
        file_bytes,
        paths,
        twice,
        plain,
        counter.skipped,
        counter.whole,
    )


def _other_inputs(recipe: recipes.Recipe, imatrix: PathLike | Mapping[str, Any] | None) -> Iterator[Path]:
    """The files beside the model's that must not be replaced: those of the recipe and of the importance matrix."""
    given = imatrix.path if isinstance(imatrix, Imatrix) else imatrix
    for path in (recipe.source, given):
        if isinstance(path, str | os.PathLike) and os.path.isfile(path):
            yield Path(path)


class _Counter:
    """Source bytes that are done, for the caller's progress and the report."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress = total, progress
        self._done = 0
        self.skipped = 0
        self.whole = 0  # tensors of which nothing was left to do

    def skip(self, step: steps.Step) -> None:
        """A step of an earlier run."""
        size = step.source[1] - step.source[0]
        self._done += size
        self.skipped += size
        self.whole += step.is_last

    def add(self, step: steps.Step) -> None:
        """A step of this run."""
        self._done += step.source[1] - step.source[0]
        if self._progress is not None:
            self._progress(step.name, self._done, self._total)


def _begin(output: Output, journal: Journal, wanted: dict[str, Any], resume: bool) -> None:
    """Open the files of the run that `journal` speaks of, or make new ones."""
    if resume and journal.is_valid:
        journal.check(wanted)
        if not (output.is_complete() if journal.is_finished else output.reopen()):
            raise BlockquantError(
                f"{journal.path} cannot be continued: the partial file is missing or damaged; "
                "run without resume to start over"
            )
        journal.resume()
        return
    remove_files(journal.old_partials)
    journal.clear()
    output.create()
    journal.begin(wanted)


def _give_up(output: Output, journal: Journal, keep: bool) -> bool:
    """Leave what another run can continue, if that is wanted, else nothing; whether it is left."""
    # Complete files are not thrown away because they could not get their names.
    if journal.is_valid and (keep or journal.is_finished):
        output.close()
        journal.close()
        return True
    output.remove()
    journal.remove()
    return False


def _no_room(error: OSError, target: Path, size: int, kept: bool) -> OSError:
    code = error.errno or errno.ENOSPC
    left = "the partial file is kept: make room and resume" if kept else "nothing of it is left on the disk"
    return OSError(code, f"{os.strerror(code)}: the output takes {size_text(size)}; {left}", str(target))
