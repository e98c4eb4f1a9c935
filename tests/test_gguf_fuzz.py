"""The fuzzer of the C++ parser: built with clang where there is one, run for some seconds from the committed corpus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blockquant import gguf
from cmake_builds import ROOT, build, links, need, run

CORPUS = ROOT / "tests" / "fuzz" / "corpus"
SECONDS = 5


def test_the_corpus_is_small_and_reads_as_values_or_errors() -> None:
    files = sorted(CORPUS.iterdir())
    assert 50 <= len(files) <= 400
    assert sum(path.stat().st_size for path in files) < 200_000
    opened, messages = 0, set()
    for path in files:
        try:
            with gguf.open(path) as f:
                opened += 1
                for value in f.metadata.values():
                    repr(value)
                for name, tensor in f.tensors.items():
                    assert tensor.nbytes == f.tensor_info(name).nbytes
        except gguf.GGUFError as error:
            messages.add(re.sub(r"'.*'|\d+", "", str(error).partition(": ")[2]))
    assert opened >= 5
    assert len(messages) >= 20  # different kinds of refusal


def test_fuzz_the_parser(tmp_path: Path) -> None:
    clang = need("clang++", "apt-get install clang")
    main = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n'
    if not links(clang, "-fsanitize=fuzzer,address,undefined", main, tmp_path):
        pytest.skip("clang++ has no libFuzzer: apt-get install libclang-rt-dev")
    directory = tmp_path / "build"
    options = ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DBQ_FUZZ=ON", f"-DCMAKE_CXX_COMPILER={clang}"]
    build(directory, *options, targets=("fuzz_gguf", "gguf_seeds"))
    (tmp_path / "corpus").mkdir()
    run(directory / "tests" / "fuzz" / "gguf_seeds", tmp_path / "corpus")
    output = run(
        directory / "tests" / "fuzz" / "fuzz_gguf",
        f"-max_total_time={SECONDS}",
        "-malloc_limit_mb=16",  # of one allocation; what the process takes is mostly the sanitizer's
        "-rss_limit_mb=4096",
        "-max_len=8192",
        f"-dict={ROOT / 'tests' / 'fuzz' / 'gguf.dict'}",
        f"-artifact_prefix={tmp_path}/",
        tmp_path / "corpus",
        CORPUS,
    )
    runs = re.search(r"Done (\d+) runs", output)
    assert runs, output[-2000:]
    assert int(runs[1]) > 5_000
    edges = re.search(r"INITED cov: (\d+)", output)
    assert edges, output[-2000:]
    assert int(edges[1]) > 300  # the corpus reaches the parser's branches before the first mutation
