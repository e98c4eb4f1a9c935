"""The reference transformer loop: run a GGUF file with this package's kernels.

`Model` opens a file; `Session` holds a KV cache; `Tokenizer` is built from the file's metadata. The loop itself is
`decoder.py`, and `families/` says where each architecture differs from it.
"""

from blockquant.model.generation import Generation
from blockquant.model.model import Model
from blockquant.model.sampling import Sampling
from blockquant.model.session import Session
from blockquant.model.tokenizer import Tokenizer

__all__ = ["Generation", "Model", "Sampling", "Session", "Tokenizer"]
