"""Record what llama.cpp's own converter writes: python tests/record_convert.py LLAMA_CPP_SOURCE_DIR

Runs convert_hf_to_gguf.py of a llama.cpp checkout (it needs torch, transformers and sentencepiece) on the directories
of `convert_families.CASES` and on examples/tales-6m, and writes tests/data/convert/*.json: every metadata value and a
hash of every tensor. The ordinary tests compare our files with these records.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import convert_families
import convert_models
import numpy as np
import published_configs

DATA = Path(__file__).parent / "data" / "convert"
EXAMPLE = Path(__file__).parent.parent / "examples" / "tales-6m"

# llama.cpp finds the pre-tokenizer in a list of hashes of known vocabularies; ours are not in it and are named instead.
_RUN = """
import os, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
sys.argv.pop(1)
import conversion.base as base
known = base.TextModel.get_vocab_base_pre
def name(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        return os.environ["PRE_TOKENIZER"]
base.TextModel.get_vocab_base_pre = name
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def shortened(value: Any) -> Any:
    """A metadata value as JSON; long lists as their length and a hash."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list) and len(value) > 16:
        return {"count": len(value), "sha256": digest(json.dumps(value).encode())}
    return value


def describe(path: Path) -> dict[str, Any]:
    """The record of a GGUF file, read with gguf-py."""
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return {
        "file_sha256": digest(path.read_bytes()),
        "metadata": {key: [[t.name for t in f.types], shortened(f.contents())] for key, f in fields.items()},
        "tensors": {
            t.name: [t.tensor_type.name, [int(n) for n in reversed(t.shape)], digest(t.data.tobytes())]
            for t in reader.tensors
        },
    }


def record(llama_cpp: str, source: Path, name: str, dtype: str, pre_tokenizer: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.gguf"
        command = [sys.executable, "-c", _RUN, llama_cpp, str(source), "--outfile", str(out), "--outtype", dtype]
        subprocess.run(command, check=True, env={**os.environ, "PRE_TOKENIZER": pre_tokenizer})
        text = json.dumps(describe(out), ensure_ascii=False, indent=1)
        (DATA / f"{name}.json").write_text(text + "\n", "utf-8")


# The same for published models, of which only the plan is wanted: nothing is written, and no vocabulary is read.
_PLAN = """
import json, pathlib, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
sys.argv.pop(1)
import conversion.base as base
def vocabulary(self):
    pass
def pieces(self):
    count = self.hparams["vocab_size"]
    return [b""] * count, [0.0] * count, [1] * count
base.TextModel._create_vocab_sentencepiece = pieces
def plan(self):
    type(self).set_vocab = vocabulary
    self.prepare_tensors()
    self.prepare_metadata(vocab_only=False)
    writer = self.gguf_writer
    keys = {k: [v.type.name, v.value] for group in writer.kv_data for k, v in group.items()}
    tensors = {n: [i.dtype.name, list(i.shape)] for group in writer.tensors for n, i in group.items()}
    pathlib.Path(self.fname_out).write_text(json.dumps({"metadata": keys, "tensors": tensors}))
base.ModelBase.write = plan
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""


def layers_together(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors that layers have in common as one entry: name with "*" -> [dtype, shape, layers]."""
    found: dict[str, Any] = {}
    for name, (dtype, shape) in tensors.items():
        parts = name.split(".")
        layer = int(parts[1]) if parts[0] == "blk" else None
        pattern = ".".join(["blk", "*", *parts[2:]]) if layer is not None else name
        entry = found.setdefault(pattern, [dtype, list(shape), []])
        assert entry[:2] == [dtype, list(shape)], name
        entry[2] += [] if layer is None else [layer]
    return {name: [dtype, shape, len(layers)] for name, (dtype, shape, layers) in found.items()}


def record_published(llama_cpp: str) -> None:
    for name in published_configs.CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            source = published_configs.write_hollow(Path(folder) / name, name, for_llama_cpp=True)
            (source / "tokenizer.model").write_bytes(b"")  # which Gemma's converter looks for
            out = Path(folder) / "plan.json"
            command = [sys.executable, "-c", _PLAN, llama_cpp, str(source), "--outfile", str(out), "--outtype", "bf16"]
            subprocess.run(command, check=True)
            plan = json.loads(out.read_text())
            plan["tensors"] = layers_together(plan["tensors"])
            (DATA / "published").mkdir(exist_ok=True)
            (DATA / "published" / f"{name}.json").write_text(json.dumps(plan, indent=1) + "\n", "utf-8")


# The special tokens as llama.cpp's gguf-py collects them (the released gguf package may be older).
_SPECIAL = """
import json, sys
sys.path.insert(0, sys.argv[1] + "/gguf-py")
from gguf.vocab import SpecialVocab
special = SpecialVocab(sys.argv[2], n_vocab=10)
names = {"unk": "unknown", "sep": "seperator", "pad": "padding"}
ids = {names.get(r, r): i for r, i in special.special_token_ids.items() if r != "cls"}
found = {f"tokenizer.ggml.{role}_token_id": token for role, token in ids.items()}
found |= {f"tokenizer.ggml.add_{role}_token": value for role, value in special.add_special_token.items()}
found |= {"tokenizer.chat_template": special.chat_template} if special.chat_template else {}
print(json.dumps(found))
"""


def record_special_tokens(llama_cpp: str) -> None:
    found = {}
    for case, files in convert_models.special_token_cases().items():
        with tempfile.TemporaryDirectory() as folder:
            for name, value in files.items():
                convert_models.write_json(Path(folder) / name, value)
            command = [sys.executable, "-c", _SPECIAL, llama_cpp, folder]
            found[case] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    (DATA / "special_tokens.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def main() -> None:
    llama_cpp = str(Path(sys.argv[1]).resolve())
    DATA.mkdir(parents=True, exist_ok=True)
    record_special_tokens(llama_cpp)
    record_published(llama_cpp)
    record(llama_cpp, EXAMPLE, "tales-6m", "f16", "qwen2")
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, dtype, pre_tokenizer) in convert_families.CASES.items():
            record(llama_cpp, make(Path(folder)), name, dtype, pre_tokenizer)


if __name__ == "__main__":
    main()
