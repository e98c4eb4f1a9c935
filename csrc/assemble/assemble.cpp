#include "assemble/assemble.hpp"

#include <algorithm>
#include <cstring>

#include "assemble/store_scales.hpp"
#include "assemble/store_values.hpp"
#include "formats/common_form.hpp"

namespace bq {
namespace {

// The same bits: zeros of both signs and NaNs are told apart.
bool same_floats(const float* a, const float* b, int n) {
    return std::memcmp(a, b, sizeof(float) * static_cast<size_t>(n)) == 0;
}

template <FormatId id>
BlockFit assemble_block(const BlockParts& parts, Rounding rounding, const uint8_t* like, uint8_t* out) {
    using Form = CommonForm<id>;
    auto& block = *reinterpret_cast<typename Form::Block*>(out);
    bool scales_stand = false;
    if (like) {
        int8_t q[Form::elements];
        float scales[Form::runs], minima[Form::runs];
        unpack_block<id>(like, q, scales, minima);
        scales_stand = same_floats(scales, parts.scales, Form::runs) &&
                       (!Form::has_minima || same_floats(minima, parts.minima, Form::runs));
        std::memcpy(out, like, Form::bytes);
        if (scales_stand && std::memcmp(q, parts.q, Form::elements) == 0) return {};
    } else {
        std::memset(out, 0, Form::bytes);
    }
    const BlockFit fit = assemble::store_values<id>(parts.q, block);
    if (fit.misfit != Misfit::none || scales_stand) return fit;
    float weights[Form::runs], heaviest = 0;
    for (int j = 0; j < Form::runs; ++j) {
        int sum = 0;
        for (int i = j * Form::run; i < (j + 1) * Form::run; ++i) sum += parts.q[i] * parts.q[i];
        weights[j] = static_cast<float>(sum);
        heaviest = std::max(heaviest, weights[j]);
    }
    if (heaviest == 0) std::fill(weights, weights + Form::runs, 1.0f);
    return assemble::store_scales(assemble::RunScales{parts.scales, parts.minima, weights, rounding}, block);
}

struct Entry {
    AssembleBlockFn assemble = nullptr;
    UnpackRowFn unpack = nullptr;
    AssemblyRules (*rules)() = nullptr;
};

template <FormatId id>
AssemblyRules rules_of() {
    using Block = typename CommonForm<id>::Block;
    AssemblyRules rules{assemble::describe_values<id>(), assemble::describe_scales<Block>(), ""};
    if (CommonForm<id>::has_minima) rules.minima = rules.scales;
    return rules;
}

template <FormatId... ids>
struct Entries {
    Entry of[kFormatIdLimit];
    constexpr Entries() {
        ((of[static_cast<int>(ids)] = {assemble_block<ids>, unpack_row<ids>, rules_of<ids>}), ...);
    }
};

using enum FormatId;
constexpr Entries<IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K,
                  Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0>
    kEntries;

const Entry& entry_of(FormatId id) {
    return kEntries.of[static_cast<int>(id)];
}

}  // namespace

AssembleBlockFn block_assembler(FormatId id) {
    return entry_of(id).assemble;
}

UnpackRowFn row_unpacker(FormatId id) {
    return entry_of(id).unpack;
}

AssemblyRules assembly_rules(FormatId id) {
    return entry_of(id).rules ? entry_of(id).rules() : AssemblyRules();
}

}  // namespace bq
