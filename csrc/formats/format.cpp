#include "formats/format.hpp"

#include <array>

#include "formats/format_table.hpp"

namespace bq {
namespace {

using registry::kFormats;

constexpr auto kIndexById = [] {
    std::array<int8_t, kFormatIdLimit> index{};
    index.fill(-1);
    int8_t i = 0;
    for (const FormatInfo& f : kFormats) index[static_cast<size_t>(f.id)] = i++;
    return index;
}();

}  // namespace

std::span<const FormatInfo> all_formats() {
    return kFormats;
}

const FormatInfo* find_format(std::string_view name) {
    for (const FormatInfo& f : kFormats)
        if (name == f.name) return &f;
    return nullptr;
}

const FormatInfo* find_format(int64_t ggml_type) {
    if (ggml_type < 0 || ggml_type >= kFormatIdLimit || kIndexById[ggml_type] < 0) return nullptr;
    return &kFormats[kIndexById[ggml_type]];
}

const FormatInfo& format_info(FormatId id) {
    return kFormats[kIndexById[static_cast<size_t>(id)]];
}

}  // namespace bq
