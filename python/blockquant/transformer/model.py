"""`Model`: a GGUF file made ready to run."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, SupportsIndex, TypeVar

from blockquant import gguf
from blockquant._runtime import thread_count
from blockquant.errors import BlockquantError
from blockquant.transformer.cache import CACHE_TYPES
from blockquant.transformer.chat import render_chat
from blockquant.transformer.config import Config
from blockquant.transformer.decoder import Decoder
from blockquant.transformer.families import find_family
from blockquant.transformer.generation import Generation
from blockquant.transformer.perplexity import perplexity
from blockquant.transformer.prompt_cache import fingerprint
from blockquant.transformer.sampling import Sampling
from blockquant.transformer.session import Session, all_logits, check_tokens
from blockquant.transformer.tokenizer import Tokenizer
from blockquant.transformer.weights import FloatArray, Weights
from blockquant.transformer.windows import Progress

W = TypeVar("W", bound=Weights)


class Model:
    """A decoder-only transformer from a GGUF file, computed by this package's kernels. Use `Model.open`.

    Weights stay in the mapped file and are multiplied in the format they are stored in; activations are quantized to
    int8 for quantized weights and stay float32 for float weights. Sessions of one model may run in different threads.
    """

    def __init__(
        self, file: Any, n_ctx: int | None, threads: int | None, cache_type: str | None = None, pack: bool = False
    ) -> None:
        count = thread_count(threads)
        architecture = str(file.architecture)
        family = find_family(architecture)
        self.config = Config.from_metadata(file.metadata, architecture)
        if n_ctx is not None and n_ctx < 1:
            raise BlockquantError(f"n_ctx must be at least 1, got {n_ctx}")
        if cache_type is not None and cache_type not in CACHE_TYPES:
            raise BlockquantError(f"cache type {cache_type!r} is not known; known: {', '.join(CACHE_TYPES)}")
        self.cache_type = cache_type
        self.n_ctx: int = self.config.context_length if n_ctx is None else n_ctx
        self._family, self._threads, self._pack = family, count, pack
        self._file: Any = file
        self._decoder, _ = self.build(Weights)
        self.n_vocab: int = self._decoder.n_vocab  # rows of the embedding matrix, length of a row of logits
        if "tokenizer.ggml.tokens" in file.metadata:
            tokens = file.metadata_info("tokenizer.ggml.tokens").count
            if tokens != self.n_vocab:  # a row without a token could be sampled, a token without a row be asked for
                raise BlockquantError(
                    f"the file has {self.n_vocab} rows of token_embd.weight for {tokens} tokens of its vocabulary; "
                    f"convert the model again, with a token for every row"
                )
        self.metadata: Mapping[str, Any] = file.metadata

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        threads: int | None = None,
        n_ctx: int | None = None,
        cache_type: str | None = None,
        pack: bool = False,
    ) -> Model:
        """Open a GGUF file of a supported architecture (families/ has one module for each).

        Args:
            path: the file (any shard of a split set).
            threads: for the kernels, default `blockquant.get_num_threads()`.
            n_ctx: the most tokens of a session, default what the model was trained for. The cache grows as needed.
            cache_type: what sessions keep keys and values as: "f16", "f32", or "q8_0" for half the memory of f16.
                Default f32 where the weights are float32, else f16.
            pack: lay each weight out with `blockquant.pack` when it is first used, where that makes text come faster:
                formats below 4 bits above all. Takes memory of their size besides the mapped file.

        Raises:
            GGUFError: the file is malformed.
            ValueError: unsupported architecture, or a missing, unknown or wrongly shaped tensor (named).
            OSError: the file cannot be read.
        """
        file = gguf.open(path)
        try:
            return cls(file, n_ctx, threads, cache_type, pack)
        except BaseException:
            file.close()
            raise

    def build(self, weights_type: type[W]) -> tuple[Decoder, W]:
        """A decoder over the file's tensors as this class hands them out."""
        self._check_open()
        weights = weights_type(self._file.tensors, "the file", self._threads, self._pack)
        return self._family(self.config, weights, self._threads), weights

    def close(self) -> None:
        """Release the file. Sessions that exist keep working, and hold on to the weights."""
        if self._file is not None:
            self._file.close()
            self._file = None
            del self._decoder  # frees the mapping as soon as no session needs it

    def _check_open(self) -> None:
        if self._file is None:
            raise BlockquantError("the model is closed")

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def architecture(self) -> str:
        """The file's `general.architecture`."""
        return self.config.architecture

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file's tensors for each of their elements."""
        self._check_open()
        infos = self._file.tensor_infos.values()
        return float(8 * sum(info.nbytes for info in infos) / sum(math.prod(info.shape) for info in infos))

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The file's vocabulary, built on first use (needs the `tokenizers` package for byte-level BPE)."""
        self._check_open()
        return Tokenizer(self.metadata)

    def session(self, n_ctx: int | None = None, cache_type: str | None = None) -> Session:
        """A new, empty session, of the model's n_ctx tokens and cache type or those given."""
        self._check_open()
        if n_ctx is not None and n_ctx < 1:
            raise BlockquantError(f"n_ctx must be at least 1, got {n_ctx}")
        kind = self.cache_type if cache_type is None else cache_type
        return Session(self._decoder, self.n_ctx if n_ctx is None else n_ctx, kind, self._identity)

    def session_for(self, count: int) -> Session:
        """A session of the model's n_ctx tokens that computes as one of `count` does.

        The size makes a difference to LongRoPE models (Phi-3.5, Phi-4-mini): their sessions hold no more than the
        original context where `count` tokens fit in it.
        """
        self._check_open()
        rope = self._decoder.rope
        is_short = rope.long_factors is not None and count <= rope.original_context
        return self.session(min(self.n_ctx, rope.original_context) if is_short else None)

    def _identity(self) -> str:
        self._check_open()
        return fingerprint(self._file)

    def logits(self, tokens: Sequence[SupportsIndex]) -> FloatArray:
        """The logits of every position of `tokens` in a fresh context, float32 [T, V]."""
        ids = check_tokens(tokens, self.n_vocab, self.n_ctx)
        return all_logits(self.session(len(ids)), ids, self.n_vocab)

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        *,
        session: Session | None = None,
        context_shift: bool = False,
        **sampling: Any,
    ) -> Generation:
        """Continue a prompt: an iterator of text pieces, which also tells tokens, speed and why it stopped.

        Args:
            prompt: text (special tokens written in it are read as such, and BOS is added where the vocabulary wants
                it, but never EOS) or token ids.
            max_tokens: stop after this many.
            temperature, top_k, top_p, min_p, seed: see `blockquant.transformer.Sampling`; temperature 0 is greedy.
            stop: strings that end the text; they are not part of it.
            session: one of this model, which then holds prompt and text: what it holds already of the prompt's
                beginning is not evaluated again. Nothing else may use it until the text is there.
            context_shift: drop the older half of the tokens, except BOS, when the context is full, and go on.
            sampling: the other fields of `Sampling`: typical_p, repeat_penalty, repeat_last_n, frequency_penalty,
                presence_penalty, logit_bias.

        Raises ValueError at once for an empty or too long prompt, an unknown token or a bad option, and while
        running when the context is full or something else used the session.
        """
        ids = self.prompt_tokens(prompt) if isinstance(prompt, str) else prompt
        options = Sampling(temperature, top_k, top_p, min_p, seed, **sampling)
        return self._generate(ids, max_tokens, options, stop, session, context_shift)

    def prompt_tokens(self, text: str) -> list[int]:
        """The tokens of a text that `generate` is to continue."""
        ids = self.tokenizer.encode(text, parse_special=True)
        return ids[:-1] if self.tokenizer.add_eos else ids  # after an EOS another text would begin

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        *,
        session: Session | None = None,
        context_shift: bool = False,
        **sampling: Any,
    ) -> Generation:
        """Answer a conversation, with the file's own chat template; otherwise as `generate`.

        messages: dicts with "role" ("system", "user", "assistant") and "content" (needs the `jinja2` package).
        """
        options = Sampling(temperature, top_k, top_p, min_p, seed, **sampling)
        return self._generate(self.chat_tokens(messages), max_tokens, options, stop, session, context_shift)

    def chat_tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of a conversation up to where the answer begins, by the file's chat template."""
        tokenizer = self.tokenizer
        text = render_chat(self.metadata.get("tokenizer.chat_template"), messages, tokenizer)
        ids = tokenizer.encode(text, add_special=False, parse_special=True)
        if tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
            ids.insert(0, tokenizer.bos_id)  # most templates write it themselves
        return ids

    def _generate(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        stop: str | Sequence[str],
        session: Session | None,
        context_shift: bool,
    ) -> Generation:
        if max_tokens < 1:
            raise BlockquantError(f"max_tokens must be at least 1, got {max_tokens}")
        strings = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in strings:
            raise BlockquantError("a stop string must not be empty")
        sampling.check_vocabulary(self.n_vocab)
        self._check_open()
        if session is None:  # no larger than needed: LongRoPE goes by the size
            session = self.session(min(self.n_ctx, len(prompt) + max_tokens))
        elif not session.belongs_to(self._decoder):
            raise BlockquantError("the session belongs to another model")
        ids = check_tokens(prompt, self.n_vocab, session.n_ctx)
        keep = int(ids[0] == self.tokenizer.bos_id)
        return Generation(session, self.tokenizer, ids, max_tokens, sampling, strings, context_shift, keep)

    def perplexity(
        self, text: str, n_ctx: int = 512, chunks: int | None = None, progress: Progress | None = None
    ) -> dict[str, float | int]:
        """Perplexity of a text, measured as llama-perplexity does: same tokens, windows and scored positions.

        Args:
            text: at least 2 * n_ctx tokens.
            n_ctx: tokens of a window; the second half of each is scored.
            chunks: use the first so many windows only.
            progress: called as progress("perplexity", windows done, windows).

        Returns ppl; nll, the mean negative log-likelihood in nats; tokens, how many were scored; stderr, the standard
        error of ppl; windows; n_ctx.
        """
        return perplexity(self, text, n_ctx, chunks, progress)

    def __repr__(self) -> str:
        c = self.config
        return f"Model({c.architecture}, {c.n_layers} layers, {c.n_embd} wide, {self.n_vocab} tokens)"
