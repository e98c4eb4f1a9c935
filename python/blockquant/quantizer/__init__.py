"""A GGUF file to a quantized GGUF file, a piece of a tensor at a time.

| module | what it holds |
|---|---|
| `driver` | `quantize_file` |
| `plan` | what every tensor becomes, the files of the output, what is refused |
| `steps` | the work in pieces, and encoding one |
| `pipeline` | reading, encoding and writing at the same time |
| `output`, `journal` | partial files, and what a killed run leaves to the next |
| `report` | what was done |
"""

from __future__ import annotations

from blockquant.quantizer.driver import quantize_file
from blockquant.quantizer.journal import has_journal
from blockquant.quantizer.report import QuantizationReport, TensorReport, size_text

__all__ = ["QuantizationReport", "TensorReport", "has_journal", "quantize_file", "size_text"]
