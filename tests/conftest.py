"""Fixtures that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ggml import Ggml
from numpy.typing import NDArray

GOLDEN = Path(__file__).parent / "data" / "golden" / "ggml-0.26.0.npz"


@pytest.fixture(scope="session")
def ggml() -> Ggml:
    """ggml's own encoders and decoders; skips where the xllamacpp wheel is not installed."""
    pytest.importorskip("xllamacpp")
    return Ggml.from_xllamacpp()


@pytest.fixture(scope="session")
def golden() -> dict[str, NDArray[np.generic]]:
    """The arrays of tests/data/golden."""
    with np.load(GOLDEN) as archive:
        return dict(archive)


@pytest.fixture
def restore_isa() -> Iterator[None]:
    """Puts the instruction set back after a test that switches it."""
    import blockquant as bq

    before = bq.cpu_info()["isa"]
    yield
    bq.set_isa(before)
