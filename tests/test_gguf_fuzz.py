"""The fuzzer of the C++ parser: built with clang where there is one, run for some seconds from the committed corpus."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from blockquant import gguf

ROOT = Path(__file__).parent.parent
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
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    tools = {name: shutil.which(name, path=path) for name in ("cmake", "ninja", "clang++")}
    for name, found in tools.items():
        if found is None:
            pytest.skip(f"no {name}")

    def run(*command: str | Path) -> str:
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{output[-6000:]}"
        return output

    probe = tmp_path / "probe.cpp"
    probe.write_text('extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n')
    sanitizers = "-fsanitize=fuzzer,address,undefined"
    command = [tools["clang++"], sanitizers, str(probe), "-o", str(tmp_path / "probe")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("clang++ has no libFuzzer: apt-get install libclang-rt-dev")

    build = tmp_path / "build"
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    options = ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DBQ_FUZZ=ON", "-DBQ_PYTHON=OFF", *launcher]
    options += [f"-DCMAKE_CXX_COMPILER={tools['clang++']}", f"-DCMAKE_MAKE_PROGRAM={tools['ninja']}"]
    run(tools["cmake"] or "", "-S", ROOT, "-B", build, "-G", "Ninja", *options)
    run(tools["cmake"] or "", "--build", build, "-j2", "--target", "fuzz_gguf", "gguf_seeds")
    (tmp_path / "corpus").mkdir()
    run(build / "tests" / "fuzz" / "gguf_seeds", tmp_path / "corpus")
    output = run(
        build / "tests" / "fuzz" / "fuzz_gguf",
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
