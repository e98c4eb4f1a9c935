"""The reference transformer loop: run a GGUF file with this package's kernels.

`Model` opens a file; `Session` holds a KV cache; `Tokenizer` is built from the file's metadata. The loop itself is
`decoder.py`, and `families/` says where each architecture differs from it.
"""

from blockquant.transformer.generation import Generation
from blockquant.transformer.model import Model
from blockquant.transformer.sampling import Sampling
from blockquant.transformer.session import Session
from blockquant.transformer.tokenizer import Tokenizer

__all__ = ["Generation", "Model", "Sampling", "Session", "Tokenizer"]
