"""Every llama.cpp file type as data: which format each kind of tensor gets.

A rule reads "FORMAT", or "FORMAT if condition and not condition"; the first rule whose conditions hold decides, and a
tensor that no rule claims gets the recipe's base format. `rules.CONDITIONS` says what the conditions mean, and
`tensors.role_of` which tensors a field of `Recipe` is about. The choices are llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Rules = tuple[str, ...]

# The roles that a recipe has rules for; "other" are the tensors that are quantized and have none of these.
ROLES = (
    "output",
    "token_embd",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "other",
)

# In a rule of a user's recipe, instead of a format: the tensor stays as it is.
KEEP = "keep"


@dataclass(frozen=True)
class Recipe:
    """What one file type does. Fields that are left out mean "the base format".

    The last four fields are for recipes that users write; `custom` reads them.
    """

    name: str
    file_type: int  # general.file_type of the file
    base: str
    # One format: Q8_0 takes its place where llama.cpp's does; rules: these alone.
    output: str | Rules = (
        "Q6_K"  # the output tensor; the token embedding too, when the model has no output tensor of its own
    )
    token_embd: Rules = ()
    attn_q: Rules = ()
    attn_k: Rules = ()
    attn_v: Rules = ()  # also the fused attn_qkv and attn_kv_b
    attn_output: Rules = ()
    ffn_gate: Rules = ()
    ffn_up: Rules = ()
    ffn_down: Rules = ()
    every: Rules = ()  # instead of all of the above but `output`
    common: bool = True  # COMMON comes before the recipe's own rules, LARGE_LLAMA_ATTN_V after them
    roles: Mapping[str, Rules] = field(default_factory=dict)  # rules that stand alone, instead of the above
    tensors: tuple[tuple[str, Rules], ...] = ()  # regular expressions of names, before any role
    fallbacks: Mapping[str, str] = field(default_factory=dict)  # instead of FALLBACKS, format by format
    source: str = ""  # the file that it was read from

    def rules_for(self, role: str) -> Rules:
        """All the rules, in order, for a tensor of this role; "token_embd" is that of a model with an output tensor."""
        if role in self.roles:
            return self.roles[role]
        if role == "output":
            if not isinstance(self.output, str):
                return self.output
            return (*(() if self.output == "Q8_0" else ("Q8_0 if falcon", "Q8_0 if not base_fits")), self.output)
        if self.every:
            return self.every
        own: Rules = getattr(self, role, ())
        if not self.common:
            return own
        if role == "attn_v":
            own = _with_large_llama((*own, self.base))
        return COMMON.get(role, ()) + own

    def fallback_of(self, format: str) -> str | None:
        """What replaces a format whose blocks do not divide the row; None where nothing does."""
        return self.fallbacks.get(format, FALLBACKS.get(format))

    @property
    def needs_imatrix_format(self) -> str | None:
        """A format that is garbage without an importance matrix in this file type alone."""
        return "Q2_K" if self.file_type == Q2_K_S else None


# Small tensors that eight experts share are worth eight bits.
COMMON: dict[str, Rules] = {"attn_v": ("Q8_0 if experts_8",), "attn_k": ("Q8_0 if experts_8",)}

# In the 70B models eight heads share attn_v, so that better bits for it cost next to nothing.
LARGE_LLAMA_ATTN_V = {"Q3_K": "Q5_K", "Q4_K": "Q5_K"}


def _with_large_llama(rules: Rules) -> Rules:
    """Each rule that chooses one of these formats after a rule that chooses the better one in a large llama."""
    result: list[str] = []
    for rule in rules:
        choice, _, condition = rule.partition(" if ")
        if choice in LARGE_LLAMA_ATTN_V:
            result.append(f"{LARGE_LLAMA_ATTN_V[choice]} if large_llama" + (condition and f" and {condition}"))
        result.append(rule)
    return tuple(result)


# Tensors of one architecture that no recipe takes below a format, by parts of their names.
MINIMUM: dict[str, tuple[tuple[str, ...], str]] = {"glm5-next": (("attn_q_a", "attn_q_b", "nextn.eh_proj"), "Q8_0")}

# What replaces a format whose blocks do not divide the row; where this does not fit either, F16 does.
FALLBACKS = {
    "IQ1_S": "IQ4_NL",
    "IQ1_M": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "Q2_0": "Q4_0",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "NVFP4": "IQ4_NL",  # ours: llama-quantize does not write this file type
}
LAST_FALLBACK = "F16"

# Formats that are garbage without an importance matrix.
IMATRIX_FORMATS = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
Q2_K_S = 21  # file type

_EXPERT_OUTPUT = "Q5_K if experts_8 and not falcon"


def _low_bit(name: str, file_type: int, base: str, better: str, token_embd: str, attn_output: Rules) -> Recipe:
    """The recipes of about two bits and fewer: `better` is what the sensitive tensors get."""
    return Recipe(
        name,
        file_type,
        base,
        output="Q5_K",
        token_embd=(token_embd,),
        attn_k=("Q4_K if experts_8",),
        attn_v=("Q4_K if wide_gqa", "Q4_K if experts_4", better),
        attn_output=("Q5_K if experts_8", *attn_output),
        ffn_down=(f"{better} if first_eighth_seen",),
        common=False,
    )


_ALL = (
    Recipe("F32", 0, "F32", output=("F32",), every=("F32",)),
    Recipe("F16", 1, "F16", output=("F16",), every=("F16",)),
    Recipe("Q4_0", 2, "Q4_0", ffn_down=("Q4_1 if imatrix and first_eighth",)),
    Recipe("Q4_1", 3, "Q4_1"),
    Recipe("Q8_0", 7, "Q8_0", output="Q8_0"),
    Recipe("Q5_0", 8, "Q5_0", ffn_down=("Q5_1 if imatrix and first_eighth",)),
    Recipe("Q5_1", 9, "Q5_1"),
    Recipe(
        "Q2_K",
        10,
        "Q2_K",
        attn_v=("Q4_K if wide_gqa", "Q3_K"),
        attn_output=(_EXPERT_OUTPUT, "Q3_K if not falcon"),
        ffn_down=("Q3_K",),
    ),
    Recipe("Q3_K_S", 11, "Q3_K", attn_output=(_EXPERT_OUTPUT,)),
    Recipe(
        "Q3_K_M",
        12,
        "Q3_K",
        attn_v=("Q5_K if first_2", "Q4_K"),
        attn_output=(_EXPERT_OUTPUT, "Q4_K if not falcon"),
        ffn_down=("Q5_K if first_sixteenth", "Q4_K if not falcon", "Q4_K if more_bits"),
    ),
    Recipe(
        "Q3_K_L",
        13,
        "Q3_K",
        attn_v=("Q5_K",),
        attn_output=("Q4_K if falcon", "Q5_K if not experts_8"),
        ffn_down=("Q4_K if falcon", "Q5_K"),
    ),
    Recipe(
        "Q4_K_S",
        14,
        "Q4_K",
        attn_v=("Q5_K if first_4",),
        attn_output=(_EXPERT_OUTPUT,),
        ffn_down=("Q5_K if first_eighth and not falcon",),
    ),
    Recipe(
        "Q4_K_M",
        15,
        "Q4_K",
        attn_v=("Q6_K if more_bits",),
        attn_output=(_EXPERT_OUTPUT,),
        ffn_down=("Q6_K if falcon and first_sixteenth", "Q5_K if falcon and more_bits", "Q6_K if more_bits"),
    ),
    Recipe("Q5_K_S", 16, "Q5_K"),
    Recipe("Q5_K_M", 17, "Q5_K", attn_v=("Q6_K if more_bits",), ffn_down=("Q6_K if more_bits",)),
    Recipe("Q6_K", 18, "Q6_K"),
    _low_bit("IQ2_XXS", 19, "IQ2_XXS", "Q2_K", "Q2_K", ()),
    _low_bit("IQ2_XS", 20, "IQ2_XS", "Q2_K", "Q2_K", ()),
    Recipe("Q2_K_S", 21, "Q2_K", attn_v=("Q4_K if wide_gqa",), ffn_down=("Q4_K if first_eighth",)),
    Recipe(
        "IQ3_XS",
        22,
        "IQ3_S",
        attn_q=("IQ3_XXS",),
        attn_k=("IQ3_XXS",),
        attn_v=("Q4_K if wide_gqa",),
        attn_output=(_EXPERT_OUTPUT,),
        ffn_gate=("IQ3_XXS if middle",),
        ffn_up=("IQ3_XXS if middle",),
    ),
    Recipe(
        "IQ3_XXS",
        23,
        "IQ3_XXS",
        output="Q5_K",
        token_embd=("IQ3_S",),
        attn_q=("IQ2_S",),
        attn_k=("IQ2_S",),
        attn_v=("Q4_K if wide_gqa", "IQ3_S if not imatrix"),
        attn_output=(_EXPERT_OUTPUT, "IQ3_S if not falcon"),
        ffn_down=("Q4_K if first_eighth and not imatrix", "Q3_K if not imatrix"),
    ),
    _low_bit("IQ1_S", 24, "IQ1_S", "Q2_K", "Q2_K", ("IQ2_XXS",)),
    Recipe(
        "IQ4_NL",
        25,
        "IQ4_NL",
        attn_v=("Q5_K if wide_gqa",),
        attn_output=(_EXPERT_OUTPUT,),
        ffn_down=("Q5_K if first_eighth and not imatrix",),
    ),
    Recipe("IQ3_S", 26, "IQ3_S", attn_v=("Q4_K if wide_gqa",), attn_output=(_EXPERT_OUTPUT,)),
    Recipe(
        "IQ3_M",
        27,
        "IQ3_S",
        attn_v=("Q4_K",),
        attn_output=(_EXPERT_OUTPUT, "Q4_K if not falcon"),
        ffn_down=("Q4_K if first_eighth", "Q4_K if experts_8 and more_bits"),
    ),
    _low_bit("IQ2_S", 28, "IQ2_XS", "IQ3_S", "IQ3_S", ("IQ3_S",)),
    _low_bit("IQ2_M", 29, "IQ2_S", "IQ3_S", "IQ3_S", ("IQ3_S",)),
    Recipe(
        "IQ4_XS",
        30,
        "IQ4_XS",
        attn_v=("Q5_K if wide_gqa",),
        attn_output=(_EXPERT_OUTPUT,),
        ffn_down=("Q5_K if first_eighth and not imatrix",),
    ),
    _low_bit("IQ1_M", 31, "IQ1_M", "Q2_K", "Q2_K", ("IQ2_XXS",)),
    Recipe("BF16", 32, "BF16", output=("BF16",), every=("BF16",)),
    Recipe("TQ1_0", 36, "TQ1_0", token_embd=("Q4_K",)),
    Recipe("TQ2_0", 37, "TQ2_0", token_embd=("Q4_K",)),
    Recipe("MXFP4_MOE", 38, "MXFP4", output="Q8_0", every=("MXFP4 if expert_stack", "Q8_0")),
    # llama.cpp has this file type and reads it, but llama-quantize does not write it: the plain rules, then.
    Recipe("NVFP4", 39, "NVFP4"),
    Recipe("Q1_0", 40, "Q1_0"),
    Recipe("Q2_0", 41, "Q2_0", token_embd=("Q4_K",)),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
