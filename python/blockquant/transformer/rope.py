"""Rotary position embeddings: how fast each pair of a head turns, with the context extensions files ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from blockquant.errors import BlockquantError
from blockquant.transformer.keys import Keys
from blockquant.transformer.weights import FloatArray, Weights

Float64Array = npt.NDArray[np.float64]
RopeTable = tuple[FloatArray, FloatArray]  # cosines and sines [rows, pairs]


@dataclass(frozen=True, eq=False)
class Rotation:
    """How some layers rotate queries and keys: radians per position of each pair, and what the vectors grow by."""

    frequencies: Float64Array
    magnitude: float

    def table(self, position: int, rows: int) -> RopeTable:
        """Cosines and sines of the positions from `position` on."""
        angles = np.multiply.outer(np.arange(position, position + rows, dtype=np.float64), self.frequencies)
        cosines, sines = np.cos(angles) * self.magnitude, np.sin(angles) * self.magnitude
        return cosines.astype(np.float32), sines.astype(np.float32)


@dataclass(frozen=True)
class Rope:
    """dims: leading elements of a head that are rotated. Scaling is "none", or "linear", "longrope" or "yarn" by
    `factor`.

    Llama 3 and LongRoPE files hold what each frequency is further divided by in tensors; `long_factors` are for
    contexts above the original one.
    """

    dims: int
    base: float
    scaling: str = "none"
    factor: float = 1.0
    original_context: int = 0  # positions before the extension
    beta_fast: float = 32.0  # yarn: turns over the original context above which a pair is left alone
    beta_slow: float = 1.0  # and below which it is slowed by the whole factor
    attention_factor: float = 1.0
    factors: FloatArray | None = field(default=None, compare=False)
    long_factors: FloatArray | None = field(default=None, compare=False)

    @classmethod
    def from_keys(cls, keys: Keys, head_dim: int, context_length: int) -> Rope:
        """Raises ValueError for a scaling that is not known here."""
        dims = keys.positive("rope.dimension_count", head_dim)
        if dims % 2 or dims > head_dim:
            raise BlockquantError(f"{keys.name('rope.dimension_count')} is {dims}; heads have {head_dim} elements")
        base = keys.get("rope.freq_base", float, 10000.0)
        factor = keys.get("rope.scaling.factor", float, keys.get("rope.scale_linear", float, 1.0))
        scaling = keys.get("rope.scaling.type", str, "linear")
        if scaling not in ("none", "linear", "yarn", "longrope"):
            raise BlockquantError(
                f"{keys.name('rope.scaling.type')} is {scaling!r}; supported: 'none', 'linear', 'yarn', 'longrope', "
                f"and frequency factors in a rope_freqs.weight tensor (llama3 scaling)"
            )
        if not (base > 1 and factor > 0):
            raise BlockquantError(f"rope base {base} and scaling factor {factor} make no sense")
        for key, usual in (("yarn_log_multiplier", 0.0), ("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0)):
            if scaling == "yarn" and keys.get(f"rope.scaling.{key}", float, usual) != usual:
                raise BlockquantError(f"{keys.name(f'rope.scaling.{key}')} other than {usual} is not supported")
        betas = {}
        for name, usual in (("fast", 32.0), ("slow", 1.0)):
            key = f"rope.scaling.yarn_beta_{name}"
            betas[name] = keys.get(key, float, usual)
            if not 1e-6 <= betas[name] <= 1e6:  # turns whose logarithm is taken
                raise BlockquantError(f"{keys.name(key)} is {betas[name]}; expected a number from 1e-6 to 1e6")
        return cls(
            dims=dims,
            base=base,
            scaling=scaling,
            factor=factor,
            original_context=keys.positive("rope.scaling.original_context_length", context_length),
            beta_fast=betas["fast"],
            beta_slow=betas["slow"],
            attention_factor=keys.get("rope.scaling.attn_factor", float, 1.0),
        )

    def with_factors(self, weights: Weights) -> Rope:
        """With the factors that the file holds."""
        short, long = (weights.optional_vector(f"rope_factors_{n}.weight", self.dims // 2) for n in ("short", "long"))
        if (short is None) != (long is None):
            raise BlockquantError("the file has only one of rope_factors_short.weight and rope_factors_long.weight")
        factors = weights.optional_vector("rope_freqs.weight", self.dims // 2)
        return replace(self, factors=short if factors is None else factors, long_factors=long)

    def rotation(self, n_ctx: int) -> Rotation:
        """In a context of n_ctx positions."""
        factors = self.factors
        if self.long_factors is not None and n_ctx > self.original_context:
            factors = self.long_factors
        found = self._frequencies()
        return Rotation(found if factors is None else found / factors, self._magnitude())

    def _frequencies(self) -> Float64Array:
        pairs = self.dims // 2
        plain: Float64Array = self.base ** (-np.arange(pairs, dtype=np.float64) / pairs)
        if self.scaling == "none":
            return plain
        slowed: Float64Array = plain / self.factor
        if self.scaling in ("linear", "longrope"):
            return slowed
        # Fast pairs keep their frequency, slow ones are slowed; between the two bounds it is a linear mix.
        low = max(0.0, math.floor(self._pair_with_turns(self.beta_fast)))
        high = min(self.dims - 1.0, math.ceil(self._pair_with_turns(self.beta_slow)))
        ramp = np.clip((np.arange(pairs) - low) / max(0.001, high - low), 0.0, 1.0)
        mixed: Float64Array = plain * (1.0 - ramp) + slowed * ramp
        return mixed

    def _magnitude(self) -> float:
        if self.scaling == "yarn" and self.factor > 1:
            return self.attention_factor * (1.0 + 0.1 * math.log(self.factor))
        return self.attention_factor

    def _pair_with_turns(self, turns: float) -> float:
        """The (fractional) pair that makes so many turns over the original context."""
        return self.dims * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(self.base))
