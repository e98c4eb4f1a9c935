#include "decode/decode_tensor.hpp"

#include <algorithm>
#include <atomic>

#include "runtime/thread_pool.hpp"

namespace bq {
namespace {

// What a thread decodes at a time: a multiple of every block, and small enough for the level-1 cache.
constexpr int64_t kPiece = 2048;
// Pieces that are handed out together, so that small inputs stay on one thread.
constexpr int64_t kGrain = 4;
// Outputs from this size on would push everything else out of the caches and be gone from them themselves
// before somebody reads them. They are written past the caches where that is faster, too: not where blocks
// wait for the values of 16-bit floats rather than for the memory.
constexpr int64_t kPastCacheBytes = int64_t{24} << 20;

bool is_copy(const FormatInfo& format, DecodedType type) {
    switch (type) {
        case DecodedType::f32:
            return format.id == FormatId::F32;
        case DecodedType::f16:
            return format.id == FormatId::F16;
        case DecodedType::bf16:
            return format.id == FormatId::BF16;
    }
    return false;
}

}  // namespace

void decode_tensor(const KernelTable& table, const FormatInfo& format, const uint8_t* blocks, void* out,
                   DecodedType type, int64_t elements, int threads) {
    const FormatKernels& kernel = table[format.id];
    const int64_t width = type == DecodedType::f32 ? 4 : 2;
    const bool copies = is_copy(format, type);
    const bool aligned = reinterpret_cast<uintptr_t>(out) % 64 == 0;
    const DecodeU16 direct_u16 = !aligned || type == DecodedType::f32 ? nullptr
                                 : type == DecodedType::f16           ? kernel.decode_f16_past_caches
                                                                      : kernel.decode_bf16_past_caches;
    const DecodeF32 direct_f32 =
        aligned && type == DecodedType::f32 ? kernel.decode_f32_past_caches : nullptr;
    const bool past_cache = elements * width >= kPastCacheBytes &&
                            (type == DecodedType::f32 || format.block_size == 1 || direct_u16 != nullptr);
    const StreamCopy stream = past_cache ? table.stream_copy : nullptr;
    const auto decode = [&](int64_t from, int64_t count, void* to) {
        const uint8_t* at = blocks + format.row_bytes(from);
        if (type == DecodedType::f32)
            kernel.decode_f32(at, static_cast<float*>(to), count);
        else
            (type == DecodedType::f16 ? kernel.decode_f16 : kernel.decode_bf16)(
                at, static_cast<uint16_t*>(to), count);
    };
    parallel_for((elements + kPiece - 1) / kPiece, kGrain, threads, [&](int64_t begin, int64_t end) {
        uint8_t* const target = static_cast<uint8_t*>(out);
        int64_t from = begin * kPiece;
        const int64_t to = std::min(end * kPiece, elements);
        if (stream == nullptr) return decode(from, to - from, target + from * width);
        if (copies) {
            stream(target + from * width, blocks + from * width, (to - from) * width);
        } else if (direct_u16 != nullptr) {
            direct_u16(blocks + format.row_bytes(from), reinterpret_cast<uint16_t*>(target) + from,
                       to - from);
        } else if (direct_f32 != nullptr) {
            direct_f32(blocks + format.row_bytes(from), reinterpret_cast<float*>(target) + from, to - from);
        } else {
            alignas(64) uint8_t piece[kPiece * sizeof(float)];
            for (; from < to; from += kPiece) {
                const int64_t count = std::min(kPiece, to - from);
                decode(from, count, piece);
                stream(target + from * width, piece, count * width);
            }
        }
        // Stores past the caches are ordered by nothing less.
        std::atomic_thread_fence(std::memory_order_seq_cst);
    });
}

}  // namespace bq
