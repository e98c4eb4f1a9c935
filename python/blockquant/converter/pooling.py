"""How an embedding model makes one vector of a text, from the files that sentence-transformers writes.

modules.json lists the steps; the folder of the pooling step has a config.json with a flag for each way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockquant.converter.config import parse_json, read_json

# Flag -> GGUF's number of the pooling type; the first that is set counts.
_TYPES = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2, "pooling_mode_lasttoken": 3}


def pooling_metadata(directory: Path, arch: str, left_out: list[str]) -> dict[str, Any]:
    """`<arch>.pooling_type`; {} for a model that is no embedding model, or pools in a way that GGUF has no number for.

    The latter is told in `left_out`. Raises ValueError for files that are not JSON.
    """
    path = directory / "modules.json"
    modules = parse_json(path) if path.is_file() else None
    for module in modules if isinstance(modules, list) else ():
        kind = module.get("type") if isinstance(module, Mapping) else None
        if kind != "sentence_transformers.models.Pooling":
            continue
        folder = module.get("path")
        # A step lies beside modules.json: a path could point anywhere.
        is_name = isinstance(folder, str) and folder == Path(folder).name != ".."
        config = read_json(directory / folder / "config.json", required=False) if is_name else {}
        for flag, number in _TYPES.items():
            if config.get(flag) is True:
                return {f"{arch}.pooling_type": number}
        left_out.append("modules.json: its pooling is none of mean, cls and last token")
        break
    return {}
