"""How an embedding model makes one vector of a text, from the files that sentence-transformers writes.

modules.json lists the steps; the folder of the pooling step has a config.json that names the way (`pooling_mode`), or
has a flag for each as older versions wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockquant.converter.config import parse_json, read_json

# Way -> GGUF's number of the pooling type.
_MODES = {"mean": 1, "cls": 2, "lasttoken": 3}
# The flags of old; the first that is set counts.
_FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}


def pooling_metadata(directory: Path, arch: str, left_out: list[str]) -> dict[str, Any]:
    """`<arch>.pooling_type`; {} for a model that is no embedding model, or pools in a way that GGUF has no number for.

    The latter is told in `left_out`. Raises ValueError for files that are not JSON.
    """
    path = directory / "modules.json"
    modules = parse_json(path) if path.is_file() else None
    for module in modules if isinstance(modules, list) else ():
        kind = module.get("type") if isinstance(module, Mapping) else None
        if not (isinstance(kind, str) and kind.startswith("sentence_transformers.") and kind.endswith(".Pooling")):
            continue
        folder = module.get("path")
        # A step lies beside modules.json: a path could point anywhere.
        is_name = isinstance(folder, str) and folder == Path(folder).name != ".."
        config = read_json(directory / folder / "config.json", required=False) if is_name else {}
        mode = config.get(
            "pooling_mode", next((mode for flag, mode in _FLAGS.items() if config.get(flag) is True), None)
        )
        if isinstance(mode, list) and len(mode) == 1:
            mode = mode[0]
        if isinstance(mode, str) and mode in _MODES:
            return {f"{arch}.pooling_type": _MODES[mode]}
        left_out.append("modules.json: its pooling is none of mean, cls and last token")
        break
    return {}
