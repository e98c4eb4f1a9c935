#include "decode/check_tensor.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <type_traits>

#include "formats/common_form.hpp"
#include "runtime/thread_pool.hpp"
#include "targets/block_formats.hpp"

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

// Whether a look at the scales of all these blocks shows that their values are finite: no integers take a
// float16 number beyond float32.
using ScalesAreGood = bool (*)(const uint8_t* blocks, int64_t count);
template <class Block>
bool scales_are_good(const uint8_t* at, int64_t count) {
    const auto* blocks = reinterpret_cast<const Block*>(at);
    unsigned seen = 0;  // bit 15: what is not good
    const auto look = [&](uint16_t half) { seen |= (half & 0x7c00u) + 0x0400u; };
    for (int64_t i = 0; i < count; ++i) {
        if constexpr (std::is_same_v<Block, BlockMXFP4>)  // 6 * 2^(253 - 127) is beyond float32
            seen |= blocks[i].e > 252 ? 0x8000u : 0;
        else if constexpr (std::is_same_v<Block, BlockNVFP4>)  // the NaN alone
            for (const uint8_t scale : blocks[i].scales) seen |= (scale & 0x7fu) == 0x7fu ? 0x8000u : 0;
        else
            look(blocks[i].d);
        if constexpr (requires { blocks->m; }) look(blocks[i].m);
        if constexpr (requires { blocks->dmin; }) look(blocks[i].dmin);
    }
    return (seen & 0x8000u) == 0;
}

// nullptr for formats of which every value is looked at: floats, and IQ1_M, whose scale lies about in pieces.
template <FormatId... ids>
ScalesAreGood choose_look(FormatId id, Formats<ids...>) {
    ScalesAreGood found = nullptr;
    const auto offer = [&]<FormatId each>() {
        if constexpr (each != FormatId::IQ1_M)
            if (each == id) found = scales_are_good<typename CommonForm<each>::Block>;
    };
    (offer.template operator()<ids>(), ...);
    return found;
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
    const ScalesAreGood are_good = choose_look(format.id, BlockFormats{});
    parallel_for((elements + kPiece - 1) / kPiece, kGrain, threads, [&](int64_t begin, int64_t end) {
        alignas(64) float piece[kPiece];
        for (int64_t from = begin * kPiece; from < std::min(end * kPiece, elements); from += kPiece) {
            // What is later than the first finding is of no interest.
            if (from > std::min(not_finite.load(), nan_scale.load())) return;
            const uint8_t* at = blocks + format.row_bytes(from);
            const int64_t count = std::min(kPiece, elements - from);
            if (are_good && are_good(at, count / format.block_size)) continue;
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
