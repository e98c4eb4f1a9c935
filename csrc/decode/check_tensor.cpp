#include "decode/check_tensor.hpp"

#include <algorithm>
#include <atomic>
#include <limits>

#include "formats/microscaling.hpp"
#include "runtime/thread_pool.hpp"

namespace bq {
namespace {

// What a thread decodes at a time: a multiple of every block, and small enough for the level-1 cache.
constexpr int64_t kPiece = 2048;
constexpr int64_t kGrain = 16;  // pieces that are handed out together

void note_least(std::atomic<int64_t>& least, int64_t value) {
    int64_t seen = least.load();
    while (value < seen && !least.compare_exchange_weak(seen, value)) {
    }
}

// The first element of the first run whose scale is E8M0's or E4M3's NaN, or -1. ggml reads the former as
// 2^128 and the latter as zero, so that decoding does not show them.
int64_t find_nan_scale(FormatId id, const uint8_t* at, int64_t elements) {
    if (id == FormatId::MXFP4) {
        const auto* blocks = reinterpret_cast<const BlockMXFP4*>(at);
        for (int64_t i = 0; i < elements / 32; ++i)
            if (blocks[i].e == 0xff) return 32 * i;
    } else if (id == FormatId::NVFP4) {
        const auto* blocks = reinterpret_cast<const BlockNVFP4*>(at);
        for (int64_t i = 0; i < elements / 64; ++i)
            for (int j = 0; j < 4; ++j)
                if ((blocks[i].scales[j] & 0x7f) == 0x7f) return 64 * i + 16 * j;
    }
    return -1;
}

}  // namespace

BadElement find_bad_element(const KernelTable& table, const FormatInfo& format, const uint8_t* blocks,
                            int64_t elements, int threads) {
    constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
    std::atomic<int64_t> not_finite{kNone}, nan_scale{kNone};
    const auto decode = table[format.id].decode_f32;
    parallel_for((elements + kPiece - 1) / kPiece, kGrain, threads, [&](int64_t begin, int64_t end) {
        alignas(64) float piece[kPiece];
        for (int64_t from = begin * kPiece; from < std::min(end * kPiece, elements); from += kPiece) {
            // What is later than the first finding is of no interest.
            if (from > std::min(not_finite.load(), nan_scale.load())) return;
            const uint8_t* at = blocks + format.row_bytes(from);
            const int64_t count = std::min(kPiece, elements - from);
            decode(at, piece, count);
            if (const int64_t bad = table.first_nonfinite(piece, count); bad >= 0)
                note_least(not_finite, from + bad);
            if (const int64_t bad = find_nan_scale(format.id, at, count); bad >= 0)
                note_least(nan_scale, from + bad);
        }
    });
    const int64_t least = std::min(not_finite.load(), nan_scale.load());
    if (least == kNone) return {-1, false};
    return {least, nan_scale.load() == least};
}

}  // namespace bq
