"""Names, grouping and metadata of sets of shards, and reading by parts of a tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from blockquant import gguf
from blockquant.gguf import _shards as shards


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("5G", 5_000_000_000),
        ("500M", 500_000_000),
        ("4GiB", 4 << 30),
        ("1.5kb", 1500),
        ("77", 77),
        (12, 12),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes(text: str | int, count: int) -> None:
    assert shards.parse_size(text) == count


@pytest.mark.parametrize("text", ["", "G", "5X", "-5G", "0", 0, -1, "5 iB", "nan"])
def test_what_is_no_size(text: str | int) -> None:
    with pytest.raises(gguf.GGUFError, match="size"):
        shards.parse_size(text)


def test_names() -> None:
    assert shards.shard_prefix(Path("a b/m.gguf")) == Path("a b/m")
    assert shards.shard_prefix(Path("m-00002-of-00003.gguf")) == Path("m")
    assert shards.shard_prefix(Path("m")) == Path("m")
    assert shards.shard_path(Path("d/mé"), 1, 12) == Path("d/mé-00002-of-00012.gguf")


def test_grouping() -> None:
    sizes = {"a": 60, "b": 40, "c": 300, "d": 1, "e": 31, "f": 33}
    # Padded to 64, 64, 320, 32, 32, 64; what is larger than the limit is alone.
    assert shards.group_by_size(sizes, 128) == [["a", "b"], ["c"], ["d", "e", "f"]]
    assert shards.group_by_size(sizes, 1) == [[name] for name in sizes]
    assert shards.group_by_size({}, 1) == [[]]
    assert shards.group_by_number("abcde", 2) == [["a", "b"], ["c", "d"], ["e"]]
    with pytest.raises(gguf.GGUFError, match="at least one"):
        shards.group_by_number("ab", 0)
    with pytest.raises(gguf.GGUFError, match="65536 shards is too many"):
        shards.group_by_number(map(str, range(65536)), 1)


def test_a_set_opens_as_one(tmp_path: Path) -> None:
    metadata = {"general.architecture": "x", "n": 3}
    tensors = {name: np.full((2, 5), i, np.float32) for i, name in enumerate("abcde")}
    groups = shards.group_by_number(tensors, 2)
    for index, names in enumerate(groups):
        path = shards.shard_path(tmp_path / "set", index, len(groups))
        with gguf.create(path, shards.shard_metadata(metadata, index, len(groups), len(tensors))) as out:
            for name in names:
                out.add_tensor(name, tensors[name])
    last = gguf.open(shards.shard_path(tmp_path / "set", 2, 3), shards=False)
    assert {key: value.type for key, value in last.typed_metadata().items()} == {
        "split.no": gguf.ValueType.UINT16,
        "split.count": gguf.ValueType.UINT16,
        "split.tensors.count": gguf.ValueType.INT32,
    }
    with gguf.open(shards.shard_path(tmp_path / "set", 1, 3)) as file:
        assert list(file.tensors) == list("abcde")
        assert dict(file.metadata) == metadata
        assert [info.shard for info in file.tensor_infos.values()] == [0, 0, 1, 1, 2]


def test_parts_of_a_tensor_are_prefetched_and_released(tmp_path: Path) -> None:
    values = np.arange(300_000, dtype=np.float32).reshape(300, 1000)
    with gguf.create(tmp_path / "t.gguf", {"general.architecture": "x"}) as out:
        out.add_tensor("small", np.arange(3, dtype=np.int8))
        out.add_tensor("t", values)
    with gguf.open(tmp_path / "t.gguf") as file:
        tensor = file.tensors["t"]
        for start, stop in ((0, None), (4000, 8000), (8191, 8192), (1_190_000, 1_200_000), (5, 5)):
            file.prefetch("t", start, stop)
            file.release("t", start, stop)
            np.testing.assert_array_equal(tensor, values)
        file.prefetch("small")
        file.release("small")
