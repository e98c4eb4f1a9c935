"""Hugging Face model directories to GGUF files.

`convert` is the way in; `families` says which architectures there are, one module for each.
"""

from __future__ import annotations

from blockquant.converter.pipeline import convert
from blockquant.converter.writing import Conversion

__all__ = ["Conversion", "convert"]
