"""The transformer loop: logits against float64 numpy and transformers, sessions, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blockquant as bq
import model_files
import numpy as np
import pytest
from blockquant import Model, gguf
from blockquant.transformer.cache import KVCache
from blockquant.transformer.decoder import PROMPT_CHUNK

IDS = [(7 * i + i * i) % 80 for i in range(70)]


def with_biases(tensors: dict[str, Any]) -> None:
    rng = np.random.default_rng(9)
    for name in [n for n in tensors if n.startswith("blk.") and "norm" not in n]:
        tensors[name.replace("weight", "bias")] = rng.standard_normal(len(tensors[name])).astype(np.float32) * 0.3


VARIANTS: dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Any]], None] | None]] = {
    "llama": ("llama", {}, None),
    "llama, one key head, wide heads": ("llama", {"heads": 6, "kv_heads": 1, "dim": 24}, None),
    "llama, heads of 8": ("llama", {"heads": 8, "kv_heads": 8, "dim": 8}, None),
    "llama, biases": ("llama", {}, with_biases),
    "llama, partly rotated": ("llama", {"rope__dimension_count": 6}, None),
    "llama, linear scaling": ("llama", {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, None),
    "llama, frequency factors": (
        "llama",
        {},
        lambda t: t.update({"rope_freqs.weight": np.linspace(1, 8, 8, dtype=np.float32)}),
    ),
    "qwen2, biases": ("qwen2", {}, with_biases),
    "qwen3": ("qwen3", {}, None),
    "qwen3, heads of 256": ("qwen3", {"heads": 2, "kv_heads": 1, "dim": 256}, None),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_float64_arithmetic(name: str, tmp_path: Path) -> None:
    architecture, options, change = VARIANTS[name]
    metadata, tensors = model_files.random_model(architecture, **options)
    if change is not None:
        change(tensors)
    with Model.open(model_files.write(tmp_path / "m.gguf", metadata, tensors)) as model:
        ours = model.logits(IDS)
    wanted = model_files.reference_logits(metadata, tensors, IDS)
    assert ours.shape == (len(IDS), 80)
    np.testing.assert_allclose(ours, wanted, atol=1e-4 * float(np.abs(wanted).max()), rtol=0)


def test_the_bundled_model_equals_transformers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoModelForCausalLM.from_pretrained(model_files.EXAMPLE, dtype=torch.float32)
    with Model.open(model_files.tales("F32")) as model:
        ids = model.tokenizer.encode(model_files.eval_text()[5000:5900])
        ours = model.logits(ids)
    with torch.inference_mode():
        wanted = reference(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(ours, wanted, atol=1e-4 * float(np.abs(wanted).max()), rtol=0)


@pytest.fixture(scope="module")
def story_ids() -> list[int]:
    with Model.open(model_files.tales("Q4_K_M")) as model:
        return model.tokenizer.encode(model_files.eval_text()[:3000])[: PROMPT_CHUNK + 70]


@pytest.mark.parametrize("recipe", ["F32", "F16", "Q4_K_M"])
def test_pieces_give_what_the_whole_gives(recipe: str, story_ids: list[int]) -> None:
    with Model.open(model_files.tales(recipe)) as model:
        whole = model.logits(story_ids)
        session = model.session()
        at = 0
        for size in (1, 1, 30, 5, 1, PROMPT_CHUNK, len(story_ids) - PROMPT_CHUNK - 38):
            at += size
            row = session.eval(story_ids[at - size : at])
            assert session.position == at
            assert row.shape == (model.n_vocab,)
            # Rows of a matrix product are summed in another order when there are many of them. Where activations are
            # rounded to int8, a difference in the last bit can turn into one step of a later rounding.
            bound = 1e-2 if recipe == "Q4_K_M" else 2e-4
            np.testing.assert_allclose(row, whole[at - 1], atol=bound * float(np.abs(whole).max()), rtol=0)
        assert at == len(story_ids)
        first = model.session().eval(story_ids[:40])
        session.reset()
        assert session.position == 0
        np.testing.assert_array_equal(session.eval(story_ids[:40]), first)


def test_results_do_not_depend_on_threads(story_ids: list[int]) -> None:
    results = []
    for threads in (1, 2, 5):
        with Model.open(model_files.tales("Q4_K_M"), threads=threads) as model:
            session = model.session()
            session.eval(story_ids)
            results.append((model.logits(story_ids[:100]), session.eval([5])))
    for logits, last in results[1:]:
        np.testing.assert_array_equal(logits, results[0][0])
        np.testing.assert_array_equal(last, results[0][1])


@pytest.mark.parametrize("recipe", ["F16", "Q4_K_M", "Q2_K"])
def test_packed_weights_give_the_same_logits(recipe: str, story_ids: list[int]) -> None:
    with Model.open(model_files.tales(recipe)) as plain, Model.open(model_files.tales(recipe), pack=True) as packed:
        for ids in (story_ids[:8], story_ids[:100]):
            expected, got = plain.logits(ids), packed.logits(ids)
            np.testing.assert_allclose(got, expected, atol=1e-2 * float(np.abs(expected).max()), rtol=0)


@pytest.mark.parametrize("pack", [False, True])
def test_sessions_run_side_by_side(story_ids: list[int], pack: bool) -> None:
    with Model.open(model_files.tales("Q4_K_M"), threads=1, pack=pack) as model:
        texts = [story_ids[i : i + 20] for i in range(4)]

        def walk(ids: list[int]) -> np.ndarray[Any, Any]:
            session = model.session()
            return np.stack([session.eval([token]) for token in ids])

        alone = [walk(ids) for ids in texts]
        together: list[Any] = [None] * len(texts)

        def work(i: int) -> None:
            together[i] = walk(texts[i])

        workers = [threading.Thread(target=work, args=(i,)) for i in range(len(texts))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_instruction_sets_agree(story_ids: list[int]) -> None:
    before = bq.cpu_info()["isa"]
    logits = {}
    try:
        for isa in bq.available_isas():
            bq.set_isa(isa)
            with Model.open(model_files.tales("F32")) as model:
                logits[isa] = model.logits(story_ids[:60])
    finally:
        bq.set_isa(before)
    for isa, found in logits.items():
        np.testing.assert_allclose(found, logits["baseline"], atol=2e-3, rtol=0, err_msg=isa)


def test_the_cache_grows_and_its_type_follows_the_weights(story_ids: list[int]) -> None:
    with Model.open(model_files.tales("F16")) as half, Model.open(model_files.tales("F32")) as full:
        session, wide = half.session(), full.session()
        assert session._cache.nbytes == 0
        session.eval(story_ids[:3])
        wide.eval(story_ids[:3])
        assert 0 < session._cache.nbytes * 2 == wide._cache.nbytes
        small = session._cache.nbytes
        session.eval(story_ids[:100])
        assert session._cache.nbytes >= 3 * small
        assert half.n_ctx == 1024


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_cache_whose_growth_was_cut_short_goes_on(
    error: type[BaseException], story_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate, calls = KVCache._allocate, []

    def failing(self: KVCache, blocks: int) -> Any:
        calls.append(blocks)
        if len(calls) == 4:
            raise error
        return allocate(self, blocks)

    with Model.open(model_files.tales("F32")) as model:
        session, fresh = model.session(), model.session()
        session.eval(story_ids[:60])
        with monkeypatch.context() as patch:
            patch.setattr(KVCache, "_allocate", failing)
            with pytest.raises(error):
                session.eval(story_ids[60:130])
        assert (session.position, session.tokens) == (60, story_ids[:60])
        fresh.eval(story_ids[:60])
        np.testing.assert_array_equal(session.eval(story_ids[60:130]), fresh.eval(story_ids[60:130]))
        session.reset()
        session.eval(story_ids[:200])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metadata, tensors = model_files.random_model("llama")
    return model_files.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf", metadata, tensors)


def test_wrong_tokens_are_one_line(tiny: Path) -> None:
    with Model.open(tiny, n_ctx=8) as model:
        session = model.session()
        cases: list[tuple[list[int], str]] = [
            ([], "no tokens"),
            ([3, 80], "token 1 is 80, outside the vocabulary of 80 tokens"),
            ([-1], "token 0 is -1"),
            ([1] * 9, "9 tokens do not fit the context of 8"),
        ]
        for tokens, message in cases:
            for call in (session.eval, model.logits):
                with pytest.raises(ValueError, match=message):
                    call(tokens)
        with pytest.raises(TypeError):
            session.eval([1.5])  # type: ignore[list-item]
        assert session.position == 0
        session.eval([1] * 6)
        with pytest.raises(ValueError, match="context of 8 tokens is full: 6 are used and 3 more were given"):
            session.eval([1, 2, 3])
        assert session.position == 6
        before = model.session().eval([1] * 6 + [2, 3])
        np.testing.assert_allclose(session.eval([2, 3]), before, atol=1e-5)
        assert session.position == 8
        with pytest.raises(ValueError, match="full"):
            session.eval([1])


def opened(tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, Any]) -> Model:
    return Model.open(model_files.write(tmp_path / "m.gguf", metadata, tensors))


def test_missing_and_wrong_tensors_are_named(tmp_path: Path) -> None:
    metadata, tensors = model_files.random_model("qwen3")
    for name in tensors:
        if name == "output.weight":
            continue  # tied to the embeddings when absent
        less = {key: value for key, value in tensors.items() if key != name}
        with pytest.raises(ValueError, match=f"lacks the tensor '{name}', expected"):
            opened(tmp_path, metadata, less)
    for name, wrong in [
        ("blk.1.attn_k.weight", np.zeros((16, 64), np.float32)),
        ("blk.0.attn_q_norm.weight", np.zeros(17, np.float32)),
        ("token_embd.weight", np.zeros((80, 32), np.float32)),
        ("blk.0.ffn_down.weight", np.zeros((64, 96), np.int32)),
    ]:
        with pytest.raises(ValueError, match=f"tensor '{name}' (has shape|holds int32)"):
            opened(tmp_path, metadata, tensors | {name: wrong})
    with pytest.raises(ValueError, match=r"does not use: blk\.0\.attn_gate\.weight"):
        opened(tmp_path, metadata, tensors | {"blk.0.attn_gate.weight": np.zeros(4, np.float32)})


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("name", "size"), [("token_embd.scale", 1), ("token_embd.bias", 80)])
def test_embeddings_come_without_scale_and_bias(name: str, size: int, tied: bool, tmp_path: Path) -> None:
    """As llama.cpp has it: a tied output that applied them would not be what the embeddings are."""
    metadata, tensors = model_files.random_model("llama")
    if tied:
        del tensors["output.weight"]
    with pytest.raises(ValueError, match=f"does not use: {name}"):
        opened(tmp_path, metadata, tensors | {name: np.full(size, 2, np.float32)})


@pytest.mark.parametrize("rows", [4160, 4000])
def test_every_row_of_the_embeddings_has_a_token(rows: int, tmp_path: Path) -> None:
    with gguf.open(model_files.tales("F16")) as file:
        embeddings = np.asarray(file.tensors["token_embd.weight"])
        tensors = dict(file.tensors) | {"token_embd.weight": np.concatenate([embeddings, embeddings])[:rows]}
        with pytest.raises(ValueError, match=f"has {rows} rows of token_embd.weight for 4096 tokens"):
            opened(tmp_path, file.typed_metadata(), tensors)


def test_tied_output(tmp_path: Path) -> None:
    metadata, tensors = model_files.random_model("llama")
    tensors["output.weight"] = tensors["token_embd.weight"]
    with opened(tmp_path, metadata, tensors) as model:
        wanted = model.logits(IDS)
    del tensors["output.weight"]
    with opened(tmp_path, metadata, tensors) as model:
        np.testing.assert_array_equal(model.logits(IDS), wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_count": None}, "lacks llama.block_count"),
        ({"attention__layer_norm_rms_epsilon": None}, "lacks llama.attention.layer_norm_rms_epsilon"),
        ({"embedding_length": 0}, "llama.embedding_length is 0"),
        ({"embedding_length": "wide"}, "llama.embedding_length is 'wide'; expected int"),
        ({"attention__head_count_kv": 3}, "4 heads cannot share 3"),
        ({"attention__value_length": 8}, "values of 8 and keys of 16"),
        ({"rope__dimension_count": 18}, "rope.dimension_count is 18"),
        ({"rope__scaling__type": "longrope2"}, "'longrope2'; supported: 'none', 'linear', 'yarn', 'longrope'"),
        ({"context_length": 2**32}, "llama.context_length is 4294967296; expected at most 4294967295"),
        ({"expert_count": 8}, "mixture-of-experts"),
        ({"attention__head_count": np.array([4, 2], np.int32)}, "differs between layers"),
        ({"attention__head_count": [[4], [4, 4]]}, "attention.head_count is an array of arrays"),
        ({"attention__sliding_window": 1e38}, "sliding_window is 9.*; expected at most 4294967295"),
        ({"block_count": 2**31 - 1}, "block_count is 2147483647; expected at most 65536"),
        ({"rope__scaling__type": "yarn", "rope__scaling__yarn_beta_fast": 0.0}, "yarn_beta_fast is 0.0; expected a"),
        ({"rope__scaling__type": "yarn", "rope__scaling__yarn_beta_slow": -1.0}, "yarn_beta_slow is -1.0; expected a"),
        ({"attention__key_length": 512, "attention__value_length": 512}, "heads of 512"),
    ],
)
def test_wrong_hyper_parameters_are_one_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    metadata, tensors = model_files.random_model("llama", **options)
    with pytest.raises(ValueError, match=message) as caught:
        opened(tmp_path, metadata, tensors)
    assert "\n" not in str(caught.value)


def test_sizes_that_say_any(tmp_path: Path) -> None:
    """As llama.cpp reads them: 32 bits without a sign."""
    plain, other = ({"context_length": 64}, {"context_length": 2**32 - 1, "attention__sliding_window": 2**32 - 1})
    found = []
    for options in (plain, other):
        with opened(tmp_path, *model_files.random_model("llama", **options)) as model:
            found.append(model.logits([1, 2, 3]))
    np.testing.assert_array_equal(*found)


def test_wrong_files_and_arguments(tiny: Path, tmp_path: Path) -> None:
    metadata, tensors = model_files.random_model("gpt5")
    with pytest.raises(
        ValueError, match="architecture 'gpt5' is not supported; supported: bitnet, gemma3, llama, phi3,"
    ):
        opened(tmp_path, metadata, tensors)
    with pytest.raises(OSError, match="nowhere"):
        Model.open(tmp_path / "nowhere.gguf")
    for options in ({"n_ctx": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            Model.open(tiny, **options)
    with Model.open(tiny) as model, pytest.raises(ValueError, match="no vocabulary"):
        model.generate("text")


def test_a_model_can_be_closed(tiny: Path) -> None:
    model = Model.open(tiny)
    session = model.session()
    before = session.eval([1, 2])
    model.close()
    model.close()
    for call in (lambda: model.logits([1]), model.session, lambda: model.generate([1]), lambda: model.tokenizer):
        with pytest.raises(ValueError, match="the model is closed"):
            call()
    session.reset()
    np.testing.assert_array_equal(session.eval([1, 2]), before)  # a session holds on to what it needs
