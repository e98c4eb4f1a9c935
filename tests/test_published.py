"""Published models by their config.json: names, shapes and keys as llama.cpp's converter plans them, without weights;
and, among the slow tests, whole models of random weights that are converted, quantized and run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import llamacpp
import numpy as np
import published_configs
import pytest
from blockquant.converter.families import family_of
from blockquant.converter.plan import plan_tensors
from blockquant.converter.safetensors import open_checkpoint
from record_convert import DATA, layers_together


@pytest.mark.parametrize("name", published_configs.CONFIGS)
def test_plans_equal_llama_cpps(name: str, tmp_path: Path) -> None:
    expected = json.loads((DATA / "published" / f"{name}.json").read_text())
    family = family_of(published_configs.CONFIGS[name])
    plan = plan_tensors(family, open_checkpoint(published_configs.write_hollow(tmp_path, name)))
    formats = {tensor.name: ("F32" if tensor.is_exact else "BF16", list(tensor.shape)) for tensor in plan}
    assert layers_together(formats) == expected["tensors"]

    keys = {**family.first_metadata(), **family.metadata(), **family.late_metadata()}
    theirs = {key: value for key, value in expected["metadata"].items() if key.startswith(f"{family.arch}.")}
    assert list(keys) == list(theirs)
    for key, value in keys.items():
        kind, wanted = theirs[key]
        assert value == (wanted if isinstance(value, str) else pytest.approx(wanted, rel=1e-7)), key
        assert {int: "UINT32", float: "FLOAT32", str: "STRING"}[type(value)] == kind, key


# Run in a process of its own: prints the peak of its memory.
_RUN = """
import json, sys
import numpy as np
import blockquant as bq
from blockquant import Model
source, folder, recipe, steps = sys.argv[1:]
file = f"{folder}/model.gguf"
if steps == "two":
    bq.convert(source, f"{folder}/bf16.gguf", "auto")
    bq.quantize_file(f"{folder}/bf16.gguf", file, recipe)
else:
    bq.convert(source, file, recipe)
with Model.open(file, n_ctx=512) as model:
    ids = [(7 * i + i * i) % 250 + 3 for i in range(24)]
    logits = np.concatenate(list(model.session(512).eval_rows(ids)))
    np.save(f"{folder}/logits.npy", logits)
    text = model.generate("Once upon a time", max_tokens=4)
    tokens = [*text] and text.tokens
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(json.dumps({"peak": int(peak) << 10, "tokens": len(tokens), "ids": ids}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize("name", [name for name in published_configs.CONFIGS if "30B" not in name])
def test_whole_models_convert_quantize_and_run(name: str, tmp_path: Path) -> None:
    """The published shapes with random weights, in less than 6 GB of memory and 20 GB of disk."""
    recipe = "TQ2_0" if "bitnet" in name else "Q4_K_M"
    source = published_configs.write_random(tmp_path / name, name)
    size = (source / "model.safetensors").stat().st_size
    steps = "two" if size < 4e9 else "one"  # one step gives the same bytes (tests/test_convert_recipe.py)
    command = [sys.executable, "-c", _RUN, str(source), str(tmp_path), recipe, steps]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    (source / "model.safetensors").unlink()
    (tmp_path / "bf16.gguf").unlink(missing_ok=True)
    assert found["peak"] < 6e9
    assert found["tokens"] > 0
    ours = np.load(tmp_path / "logits.npy")
    assert np.isfinite(ours).all()
    assert ours.std() > 0.1
    print(f"{name}: {size / 1e9:.1f} GB of weights, peak {found['peak'] / 1e9:.2f} GB")
    with llamacpp.Model(tmp_path / "model.gguf") as other:  # takes every file; knows no squared ReLU
        if "bitnet" not in name:
            theirs = other.logits(found["ids"])
            moved = np.sqrt(np.mean((ours - theirs) ** 2)) / theirs.std()
            print(f"{name}: {moved:.4f} of the logits' spread from llama.cpp's")
            assert moved < 0.2
    (tmp_path / "model.gguf").unlink()
