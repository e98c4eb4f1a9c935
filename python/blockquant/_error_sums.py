"""How far two arrays are apart, summed up piece by piece in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class ErrorSums:
    """Sums over pairs of arrays, from which the usual figures follow."""

    def __init__(self) -> None:
        self.count = 0
        self._noise = self._signal = self._other = self._product = self._largest = 0.0

    def add(self, reference: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> None:
        """Take in two numeric arrays of one shape."""
        if not reference.size:
            return
        with np.errstate(invalid="ignore", over="ignore"):
            a, b = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
            difference = np.abs(a - b)
            self._noise += float(np.vdot(difference, difference))
            self._signal += float(np.vdot(a, a))
            self._other += float(np.vdot(b, b))
            self._product += float(np.vdot(a, b))
        self.count += a.size
        largest = float(difference.max())
        self._largest = largest if math.isnan(largest) else max(self._largest, largest)

    def merge(self, others: ErrorSums) -> None:
        """Take in what another has summed up."""
        self.count += others.count
        self._noise += others._noise
        self._signal += others._signal
        self._other += others._other
        self._product += others._product
        self._largest = others._largest if math.isnan(others._largest) else max(self._largest, others._largest)

    def figures(self) -> dict[str, float]:
        """rmse; relative_rmse (over the root mean square of the reference); max_abs; cosine; snr_db."""
        noise, signal = self._noise, self._signal
        norm = (signal * self._other) ** 0.5
        return {
            "rmse": (noise / self.count) ** 0.5 if self.count else 0.0,
            "relative_rmse": (noise / signal) ** 0.5 if signal else (0.0 if noise == 0 else math.inf),
            "max_abs": self._largest,
            "cosine": self._product / norm if norm else (1.0 if signal == self._other else 0.0),
            "snr_db": _decibels(signal, noise),
        }


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf if ratio == 0 else math.nan
