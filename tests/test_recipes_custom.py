"""Recipes that users write in TOML, and tensors of models that llama.cpp does not know."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import blockquant as bq
import numpy as np
import pytest
import quantize_models as models
from blockquant import gguf, recipes
from blockquant.recipes import custom, table
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recipes import random_model, random_options

METADATA = {"general.architecture": "llama", "llama.block_count": 8, "llama.attention.head_count": 8}
SHAPES: dict[str, tuple[int, ...]] = {"token_embd.weight": (64, 256), "output.weight": (64, 256)}
for _i in range(8):
    SHAPES |= {
        f"blk.{_i}.attn_v.weight": (64, 256),
        f"blk.{_i}.ffn_up.weight": (512, 256),
        f"blk.{_i}.ffn_down.weight": (256, 288),
        f"blk.{_i}.ffn_norm.weight": (256,),
    }


PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text("utf-8")
EXAMPLE = PAGE.split("```toml\n")[1].split("```")[0]


def plan(text: str, **options: Any) -> dict[str, str]:
    chosen = recipes.plan(SHAPES, custom.parse(text), METADATA, **options)
    return {name: str(format) for name, format in chosen.items()}


def test_a_base_with_changes() -> None:
    text = """
        base = "q4_k_m"
        [roles]
        attn_v = ["q8_0 if layer < 2", "Q6_K if more_bits"]
        [[tensors]]
        name = 'ffn_up'
        format = "Q3_K if layer >= 4 and not imatrix"
        [[tensors]]
        name = 'blk\\.[[:digit:]]\\.ffn_up'
        format = ["keep if layer == 0", "IQ4_XS if layer == 5", "Q5_K if layer == 1"]
        [fallbacks]
        Q4_K = "IQ4_NL"
    """
    got = plan(text)
    assert [got[f"blk.{i}.attn_v.weight"] for i in range(8)] == ["Q8_0"] * 2 + ["Q4_K", "Q6_K", "Q4_K", "Q4_K"] + [
        "Q6_K",
        "Q6_K",
    ]
    assert [got[f"blk.{i}.ffn_up.weight"] for i in range(8)] == ["F32", "Q5_K", "Q4_K", "Q4_K"] + ["Q3_K"] * 4
    assert plan(text, imatrix_names=["x"])["blk.5.ffn_up.weight"] == "IQ4_XS"
    # Rows of 288 take neither Q6_K nor Q4_K; the rest is the base's.
    assert {got[f"blk.{i}.ffn_down.weight"] for i in range(8)} == {"Q8_0", "IQ4_NL"}
    assert got["output.weight"] == "Q6_K"
    recipe = custom.parse(text, "some/mine.toml")
    assert (recipe.name, recipe.file_type, recipe.base) == ("mine", 15, "Q4_K")


def test_one_format_for_everything() -> None:
    got = plan('format = "Q4_K"\n[fallbacks]\nQ4_K = "Q4_0"')
    assert {format for name, format in got.items() if "norm" not in name} == {"Q4_K", "Q4_0"}
    assert plan('format = "Q4_K"\n[roles]\noutput = "Q8_0"')["output.weight"] == "Q8_0"
    assert custom.parse('format = "Q4_K"').file_type == 14
    assert custom.parse('format = "F16"\nfile_type = "Q4_0"\nname = "x"').file_type == 2


def test_tied_embeddings_follow_the_output_unless_they_have_rules() -> None:
    tied = {name: shape for name, shape in SHAPES.items() if name != "output.weight"}

    def embedding(text: str) -> str:
        return str(recipes.plan(tied, custom.parse(text), METADATA)["token_embd.weight"])

    assert embedding('base = "Q4_K_M"') == "Q6_K"
    assert embedding('base = "Q4_K_M"\n[roles]\noutput = "Q8_0"') == "Q8_0"
    assert embedding('base = "Q4_K_M"\n[roles]\noutput = "Q8_0"\ntoken_embd = "Q2_K"') == "Q8_0"
    assert embedding('base = "Q4_K_M"\n[roles]\ntoken_embd = "Q2_K"') == "Q2_K"


POSITIONS = ("first_2", "first_4", "first_sixteenth", "first_eighth", "first_eighth_seen", "middle", "more_bits")


@pytest.mark.parametrize("condition", [*POSITIONS, "layer < 99", "layer >= 0"])
@pytest.mark.parametrize("experts", [0, 8])
def test_no_position_holds_for_a_tensor_that_is_in_no_layer(condition: str, experts: int) -> None:
    layers = {f"blk.{i}.attn_q.weight": (8, 256) for i in range(16)}
    others = {"output.weight": (8, 256), "mm.proj.weight": (8, 256), "cls.output.weight": (8, 256)}
    metadata = {"general.architecture": "llama", "llama.block_count": 16, "llama.expert_count": experts}

    def better(table: str) -> set[str]:
        got = recipes.plan(others | layers, custom.parse(f'format = "Q4_K"\n{table}'), metadata)
        return {name for name, format in got.items() if format == "Q8_0"}

    found = better(f'[[tensors]]\nname = "."\nformat = "Q8_0 if {condition}"')
    assert found
    assert found <= set(layers)
    assert better(f'[[tensors]]\nname = "."\nformat = "Q8_0 if not {condition}"') == set(layers | others) - found
    # Of roles too, where names say the layers.
    if experts and condition != "first_eighth_seen":
        assert better(f'[roles]\nother = "Q8_0 if {condition}"\noutput = "Q8_0 if {condition}"') == set()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings_of_files(encoding: str, tmp_path: Path) -> None:
    text = 'format = "Q4_K"\nname = "gr\u00f6\u00dfer"\n'
    (tmp_path / "a.toml").write_bytes(("\ufeff" * (encoding == "utf-16-be") + text).encode(encoding))
    assert recipes.get(tmp_path / "a.toml").name == "gr\u00f6\u00dfer"


def test_overrides_and_pure_come_before_a_users_rules() -> None:
    text = 'base = "Q4_K_M"\n[[tensors]]\nname = "ffn_up"\nformat = "Q2_K"'
    assert plan(text, overrides={"ffn_up": "Q8_0"})["blk.3.ffn_up.weight"] == "Q8_0"
    assert plan(text, overrides={"ffn_up": "keep"})["blk.3.ffn_up.weight"] == "F32"
    assert plan(text, pure=True)["blk.3.ffn_up.weight"] == "Q4_K"
    assert plan(text)["blk.3.ffn_norm.weight"] == "F32"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(recipes.names()))
def test_a_dumped_recipe_means_the_same(seed: int, name: str) -> None:
    rng = random.Random(seed)
    metadata, shapes = random_model(rng)
    options = random_options(rng)
    recipe = recipes.get(name)
    again = custom.parse(custom.dump(recipe), f"{name}.toml")
    assert (again.name, again.file_type, again.base) == (recipe.name, recipe.file_type, recipe.base)
    if bq.formats[recipe.base].is_float:  # here llama-quantize takes no notice of options, and a user's recipe does
        options = {}
    try:
        expected = recipes.explain(shapes, recipe, metadata, **options)
    except ValueError as error:
        with pytest.raises(ValueError, match="multiple of") as caught:
            recipes.explain(shapes, again, metadata, **options)
        assert str(caught.value) == str(error)  # noqa: PT017
        return
    assert recipes.explain(shapes, again, metadata, **options) == expected


def test_a_users_recipe_survives_the_dump() -> None:
    recipe = custom.parse(
        'base = "IQ2_M"\nname = "it\'s \\"mine\\" \\n"\n[[tensors]]\nname = \'a\\.b"c\'\nformat = ["keep if rows < 3"]'
        '\n[fallbacks]\nIQ2_S = "Q4_0"'
    )
    again = custom.parse(custom.dump(recipe))
    assert again.tensors == recipe.tensors == (('a\\.b"c', ("keep if rows < 3",)),)
    assert again.name == recipe.name == 'it\'s "mine" \n'
    assert again.fallback_of("IQ2_S") == "Q4_0"
    assert all(again.rules_for(role) == (recipe.rules_for(role) or ("IQ2_S",)) for role in table.ROLES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give either base"),
        ('base = "Q4_K_M"\nformat = "Q4_K"', "give either base"),
        ('base = "Q4_K_M"\n[roles]]\n', "not valid TOML.*line 2"),
        ('base = "Q4_K_X"', "mine.toml, line 1: base: unknown recipe 'Q4_K_X': did you mean"),
        ("base = 4", "line 1: base: must be the name of a recipe, it is 4"),
        ('base = "other.toml"', "line 1: base: must be a recipe of llama.cpp's"),
        ('\nformat = "Q4_X"', "line 2: format: unknown format 'Q4_X'"),
        ('format = "keep"', "line 1: format: unknown format 'keep'"),
        ('base = "Q4_0"\nfile_typ = "Q4_0"', "line 2: file_typ: unknown key 'file_typ'; did you mean file_type"),
        ('base = "Q4_0"\nname = ""', "line 2: name: must be a text"),
        ('base = "Q4_0"\nroles = 3', r"line 2: roles: must be a table: \[roles\]"),
        ('base = "Q4_0"\n[roles]\nattn_w = "Q8_0"', r"line 3: \[roles\] attn_w: .*did you mean attn_v"),
        ('base = "Q4_0"\n[roles]\nattn_v = []', r"line 3: \[roles\] attn_v: must be a rule"),
        (
            'base = "Q4_0"\n[roles]\n\nattn_v = ["Q8_0 if more_bit"]',
            r"line 4: \[roles\] attn_v: rule 'Q8_0 if more_bit': unknown condition 'more_bit'; did you mean more_bits",
        ),
        ('base = "Q4_0"\n[roles]\nattn_v = "Q8_0 if layer < x"', "unknown condition 'layer < x'"),
        ('base = "Q4_0"\n[roles]\nattn_v = "Q8_0 if "', "there is no condition after 'if'|unknown format"),
        ('base = "Q4_0"\n[roles]\nattn_v = "Q9 if falcon"', r"line 3: \[roles\] attn_v: unknown format 'Q9'"),
        ('base = "Q4_0"\ntensors = "x"', r"must be written as \[\[tensors\]\]"),
        ('base = "Q4_0"\n[[tensors]]\nname = "a"', r"\[\[tensors\]\] number 1 has no 'format'"),
        (
            'base = "Q4_0"\n[[tensors]]\nname = "a"\nformat = "Q8_0"\n[[tensors]]\nname = "("\nformat = "Q8_0"',
            r"line 6: \[tensors\] name: name: '\(' is not a regular expression",
        ),
        ('base = "Q4_0"\n[[tensors]]\nname = "a"\nformat = "Q8_0"\nwhen = 1', "line 5: .*unknown key 'when'"),
        ('base = "Q4_0"\n[fallbacks]\nQ4_K = "Q6_K"', "the blocks of Q6_K are no smaller than those of Q4_K"),
        ('base = "Q4_0"\n[fallbacks]\nQ4_K = "keep"', r"\[fallbacks\] Q4_K: unknown format 'keep'"),
        ("a = " + "[" * 3000, "not valid TOML"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        recipes.get(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_but_valueerror(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([custom.dump(recipes.get("Q4_K_M")), EXAMPLE]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(st.sampled_from(["", '"', "]", "= ", " if ", "-1", "[[", "\n", "{}"]))
            + text[at + 3 :]
        )
    try:
        recipe = custom.parse(text)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert custom.parse(custom.dump(recipe)).base == recipe.base


def test_a_bracket_in_a_set_is_a_bracket() -> None:
    text = EXAMPLE.replace("'ssm_'", "'[[a]x'")
    assert custom.dump(custom.parse(text)).count("[[a]x") == 1  # and no warning of what Python may make of it one day


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b'base = "\xff"')
    with pytest.raises(ValueError, match="not UTF-8 at byte 8"):
        recipes.get(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_bytes(b"#" * (1 << 20) + b"#")
    (tmp_path / "u.toml").write_bytes(b"\xff\xfea")
    with pytest.raises(ValueError, match="not UTF-16-LE at byte"):
        recipes.get(tmp_path / "u.toml")
    with pytest.raises(ValueError, match="at most 1048576 bytes"):
        recipes.get(tmp_path / "b.toml")
    with pytest.raises(FileNotFoundError):
        recipes.get(tmp_path / "c.toml")


def test_quantize_file_with_a_users_recipe(tmp_path: Path) -> None:
    source = models.dense(tmp_path / "in.gguf", layers=2, embedding=256, feed_forward=256, kv=64, tied=False)
    (tmp_path / "mine.toml").write_text('base = "Q4_K_S"\n[[tensors]]\nname = "ffn_up"\nformat = "Q5_1"\n')
    report = bq.quantize_file(source, tmp_path / "out.gguf", str(tmp_path / "mine.toml"))
    assert report.recipe == "mine"
    with gguf.open(tmp_path / "out.gguf") as file:
        assert file.tensor_infos["blk.1.ffn_up.weight"].format == "Q5_1"
        assert file.tensor_infos["blk.1.ffn_gate.weight"].format == "Q4_K"
        assert file.metadata["general.file_type"] == 14


def test_the_example_in_the_docs() -> None:
    recipe = custom.parse(EXAMPLE)
    assert recipe.name == "small experts"
    assert len(recipe.tensors) == 2
    for name in (*table.ROLES, *recipes.rules.CONDITIONS, *recipes.rules.NUMBERS):
        assert f"`{name}" in PAGE, name


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("typer")
    from blockquant.cli.app import run

    assert run(["recipes"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(recipes.names())
    assert run(["recipes", "--json"]) == 0
    assert {row["name"]: row["file_type"] for row in json.loads(capsys.readouterr().out)}["IQ4_XS"] == 30
    assert run(["recipes", "q4_k_m"]) == 0
    shown = capsys.readouterr().out
    assert "Q4_K_M: Q4_K, 4.5 bits" in shown
    assert "attn_v       Q8_0 if experts_8, else Q6_K if more_bits" in shown
    assert run(["recipes", "Q4_K_M", "--toml"]) == 0
    text = capsys.readouterr().out
    assert custom.parse(text).rules_for("attn_v") == recipes.get("Q4_K_M").rules_for("attn_v")
    (tmp_path / "m.toml").write_text(text + '[[tensors]]\nname = "x"\nformat = "F16"\n')
    assert run(["recipes", str(tmp_path / "m.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tensors"] == [{"name": "x", "format": ["F16"]}]
    assert run(["recipes", "nonsense"]) == 1
    assert "unknown recipe 'nonsense'" in capsys.readouterr().err
    assert run(["recipes", "--toml"]) == 2
    assert run(["recipes", "Q4_K_M", "--toml", "--json"]) == 2


def test_tensor_types_on_the_command_line() -> None:
    pytest.importorskip("typer")
    from blockquant.cli.options import overrides_of

    assert overrides_of([r"a=b\s=Q8_0"]) == [(r"a=b\s", "Q8_0")]
    got = plan('base = "Q4_0"', overrides=overrides_of([r"BLK\.3\.ATTN_V\.\S+=q6_k", "attn_v=F16"]))
    assert (got["blk.3.attn_v.weight"], got["blk.4.attn_v.weight"]) == ("Q6_K", "F16")


# --- models that llama.cpp does not know ---

UNET: dict[str, tuple[int, ...]] = {
    "double_blocks.0.img_attn.qkv.weight": (768, 256),
    "double_blocks.0.img_attn.qkv.bias": (768,),
    "double_blocks.0.img_attn.norm.query_norm.scale": (64, 64),
    "double_blocks.1.img_mlp.0.weight": (768, 320),
    "double_blocks.1.img_mlp.2.weight": (768, 100),
    "img_in.weight": (256, 64),
    "final_layer.linear.weight": (64, 256),
    "input_blocks.1.0.in_layers.2.weight": (320, 320, 3, 3),
    "temporal.weight": (4, 8, 512),
    "small": (4, 32),
    "step": (),
}


def explain(recipe: Any = "Q4_K_M", **options: Any) -> dict[str, tuple[str, str]]:
    chosen = recipes.explain(UNET, recipe, {"general.architecture": "flux"}, **options)
    return {c.name: (str(c.format), c.reason) for c in chosen}


def test_unknown_models_are_told_by_names_and_shapes() -> None:
    got = explain()
    assert got["double_blocks.0.img_attn.qkv.weight"] == ("Q4_K", "")
    assert got["temporal.weight"] == ("Q4_K", "")
    assert got["double_blocks.1.img_mlp.0.weight"] == (
        "Q5_0",
        "rows of 320 elements are not whole blocks of Q4_K (256)",
    )
    assert got["double_blocks.1.img_mlp.2.weight"] == ("F32", "rows of 100 elements are not whole blocks of Q4_K (256)")
    assert got["input_blocks.1.0.in_layers.2.weight"][1] == "rows of 3 elements are not whole blocks of Q4_K (256)"
    assert got["img_in.weight"] == ("F32", "its name has 'img_in'")
    assert got["final_layer.linear.weight"] == ("F32", "its name has 'final_layer'")
    assert got["double_blocks.0.img_attn.norm.query_norm.scale"][1] == "its name has 'norm'"
    assert got["double_blocks.0.img_attn.qkv.bias"] == ("F32", "a vector")
    assert got["small"] == ("F32", "fewer than 1024 elements")
    assert got["step"] == ("F32", "a single number")


def test_users_claim_tensors_of_unknown_models() -> None:
    got = explain(overrides={"img_in": "Q8_0", r"0\.img_attn\.qkv": "keep", "small": "q4_0"})
    assert got["img_in.weight"][0] == "Q8_0"
    assert got["double_blocks.0.img_attn.qkv.weight"] == ("F32", "the recipe keeps it")
    assert got["double_blocks.0.img_attn.qkv.bias"] == ("F32", "a vector")
    assert got["small"][0] == "Q4_0"
    text = 'format = "Q4_0"\n[[tensors]]\nname = "img_"\nformat = ["Q8_0 if layer == 1", "BF16 if columns < 100"]'
    got = explain(custom.parse(text))
    assert got["double_blocks.1.img_mlp.0.weight"][0] == "Q8_0"
    assert got["double_blocks.0.img_attn.qkv.weight"][0] == "Q4_0"
    assert got["img_in.weight"][0] == "BF16"


def test_integers_of_unknown_models_stay() -> None:
    class Info:
        shape, format = (64, 256), "I32"

    chosen = recipes.explain({"table": Info()}, "Q8_0", {})
    assert [(c.format, c.reason) for c in chosen] == [("I32", "integers")]


def test_a_language_model_without_its_layer_count_is_not_taken_for_an_unknown_one() -> None:
    with pytest.raises(ValueError, match="block_count"):
        recipes.plan(SHAPES, "Q4_0", {"general.architecture": "llama"})


def test_quantize_file_of_an_unknown_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(np.float16) for name, shape in UNET.items() if shape}
    with gguf.create(tmp_path / "in.gguf", {"general.architecture": "flux"}) as out:
        for name, tensor in tensors.items():
            out.add_tensor(name, tensor)
    bq.quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_K_S")
    with gguf.open(tmp_path / "out.gguf") as file:
        name = "temporal.weight"
        got = file.tensors[name]
        assert isinstance(got, bq.QuantizedTensor)
        np.testing.assert_array_equal(got.data, bq.quantize(tensors[name], "Q4_K").data)
        assert file.tensor_infos["img_in.weight"].format == "F16"
