#include "targets/kernels.hpp"

namespace bq {

ActivationLayout ActivationLayout::of(int64_t rows, int64_t k, int run) {
    ActivationLayout layout{};
    constexpr int64_t kFloat = static_cast<int64_t>(sizeof(float));
    layout.run = run;
    layout.scales_offset = whole_lines(rows * k);
    layout.sums_offset = layout.scales_offset + whole_lines(rows * (k / run) * kFloat);
    layout.whole_sums_offset = layout.sums_offset + whole_lines(rows * (k / 16) * kFloat);
    layout.bytes = layout.whole_sums_offset + rows * (k / 16) * 2;
    return layout;
}

Activations ActivationLayout::view(const void* base, int64_t rows, int64_t k) const {
    const auto* bytes = static_cast<const uint8_t*>(base);
    return {reinterpret_cast<const int8_t*>(bytes),
            reinterpret_cast<const float*>(bytes + scales_offset),
            reinterpret_cast<const float*>(bytes + sums_offset),
            reinterpret_cast<const int16_t*>(bytes + whole_sums_offset),
            rows,
            k,
            run};
}

}  // namespace bq
