"""Block quantization with ggml's exact bytes."""
from blockquant._core import __version__

__all__ = ["__version__"]
