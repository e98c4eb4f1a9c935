#include "matmul/strips.hpp"

#include <cstddef>
#include <cstring>
#include <type_traits>

#include "formats/common_form.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace bq {
namespace {

struct LayoutMaker {
    StripLayout layout;

    // `count` words of consecutive bytes.
    constexpr LayoutMaker& words(size_t offset, int count, StripBits bits = StripBits::as_they_are) {
        for (int i = 0; i < count; ++i)
            layout.word[static_cast<size_t>(layout.words++)] = {
                static_cast<uint8_t>(offset + 4 * static_cast<size_t>(i)), 1, bits};
        return *this;
    }
    // For each eight bytes the even ones and the odd ones.
    constexpr LayoutMaker& even_odd(size_t offset, int pairs) {
        for (int i = 0; i < 2 * pairs; ++i)
            layout.word[static_cast<size_t>(layout.words++)] = {
                static_cast<uint8_t>(offset + 8 * static_cast<size_t>(i / 2) + static_cast<size_t>(i % 2)),
                2};
        return *this;
    }
    constexpr LayoutMaker& header(size_t offset, int bytes = 2) {
        layout.header[static_cast<size_t>(layout.headers++)] = static_cast<uint8_t>(offset);
        layout.header_bytes = bytes;
        return *this;
    }
    constexpr LayoutMaker& transposed() {
        layout.transposed = true;
        return *this;
    }
};

constexpr StripLayout make_layout(FormatId id) {
    using enum FormatId;
    LayoutMaker m;
    switch (id) {
        case Q4_0:
            m.words(offsetof(BlockQ4_0, qs), 4).header(offsetof(BlockQ4_0, d));
            break;
        case Q4_1:
            m.words(offsetof(BlockQ4_1, qs), 4);
            m.header(offsetof(BlockQ4_1, d)).header(offsetof(BlockQ4_1, m));
            break;
        case Q5_0:
            m.words(offsetof(BlockQ5_0, qh), 1, StripBits::by_step).words(offsetof(BlockQ5_0, qs), 4);
            m.header(offsetof(BlockQ5_0, d));
            break;
        case Q5_1:
            m.words(offsetof(BlockQ5_1, qh), 1, StripBits::by_step).words(offsetof(BlockQ5_1, qs), 4);
            m.header(offsetof(BlockQ5_1, d)).header(offsetof(BlockQ5_1, m));
            break;
        case Q8_0:
            m.words(offsetof(BlockQ8_0, qs), 8).header(offsetof(BlockQ8_0, d));
            break;
        case Q2_K:
            m.words(offsetof(BlockQ2_K, scales), 4).words(offsetof(BlockQ2_K, qs), 16);
            m.header(offsetof(BlockQ2_K, d)).header(offsetof(BlockQ2_K, dmin));
            break;
        case Q3_K:
            m.words(offsetof(BlockQ3_K, hmask), 8).words(offsetof(BlockQ3_K, qs), 16);
            m.words(offsetof(BlockQ3_K, scales), 3).header(offsetof(BlockQ3_K, d));
            break;
        case Q4_K:
            m.words(offsetof(BlockQ4_K, scales), 3).words(offsetof(BlockQ4_K, qs), 32);
            m.header(offsetof(BlockQ4_K, d)).header(offsetof(BlockQ4_K, dmin));
            break;
        case Q5_K:
            m.words(offsetof(BlockQ5_K, scales), 3).words(offsetof(BlockQ5_K, qh), 8);
            m.words(offsetof(BlockQ5_K, qs), 32);
            m.header(offsetof(BlockQ5_K, d)).header(offsetof(BlockQ5_K, dmin));
            break;
        case Q6_K:
            m.words(offsetof(BlockQ6_K, ql), 32).words(offsetof(BlockQ6_K, qh), 16);
            m.words(offsetof(BlockQ6_K, scales), 4).header(offsetof(BlockQ6_K, d));
            break;
        case IQ4_NL:
            m.words(offsetof(BlockIQ4_NL, qs), 4).header(offsetof(BlockIQ4_NL, d));
            break;
        case IQ4_XS:
            m.words(offsetof(BlockIQ4_XS, scales_l), 1).words(offsetof(BlockIQ4_XS, qs), 32);
            m.header(offsetof(BlockIQ4_XS, d)).header(offsetof(BlockIQ4_XS, scales_h));
            break;
        case TQ1_0:
            m.words(offsetof(BlockTQ1_0, qs), 12).words(offsetof(BlockTQ1_0, qh), 1);
            m.header(offsetof(BlockTQ1_0, d));
            break;
        case TQ2_0:
            m.words(offsetof(BlockTQ2_0, qs), 16).header(offsetof(BlockTQ2_0, d));
            break;
        case MXFP4:
            m.words(offsetof(BlockMXFP4, qs), 4).header(offsetof(BlockMXFP4, e), 1);
            break;
        case NVFP4:
            m.words(offsetof(BlockNVFP4, scales), 1).words(offsetof(BlockNVFP4, qs), 8);
            break;
        case Q1_0:
            m.words(offsetof(BlockQ1_0, qs), 4).header(offsetof(BlockQ1_0, d)).transposed();
            break;
        case Q2_0:
            m.even_odd(offsetof(BlockQ2_0, qs), 2).header(offsetof(BlockQ2_0, d)).transposed();
            break;
        case IQ1_S:
            m.words(offsetof(BlockIQ1_S, qs), 8).words(offsetof(BlockIQ1_S, qh), 4);
            m.header(offsetof(BlockIQ1_S, d)).transposed();
            break;
        case IQ1_M:
            m.words(offsetof(BlockIQ1_M, qs), 8).words(offsetof(BlockIQ1_M, qh), 4);
            m.words(offsetof(BlockIQ1_M, scales), 2).transposed();
            break;
        case IQ2_XXS:
            m.words(offsetof(BlockIQ2_XXS, runs), 16).header(offsetof(BlockIQ2_XXS, d)).transposed();
            break;
        case IQ2_XS:
            m.even_odd(offsetof(BlockIQ2_XS, qs), 8).words(offsetof(BlockIQ2_XS, scales), 2);
            m.header(offsetof(BlockIQ2_XS, d)).transposed();
            break;
        case IQ2_S:
            m.words(offsetof(BlockIQ2_S, qs), 8).words(offsetof(BlockIQ2_S, signs), 8);
            m.words(offsetof(BlockIQ2_S, qh), 2).words(offsetof(BlockIQ2_S, scales), 2);
            m.header(offsetof(BlockIQ2_S, d)).transposed();
            break;
        case IQ3_XXS:
            m.even_odd(offsetof(BlockIQ3_XXS, qs), 8).words(offsetof(BlockIQ3_XXS, signs_scale), 8);
            m.header(offsetof(BlockIQ3_XXS, d)).transposed();
            break;
        case IQ3_S:
            m.even_odd(offsetof(BlockIQ3_S, qs), 8).words(offsetof(BlockIQ3_S, qh), 2);
            m.words(offsetof(BlockIQ3_S, signs), 8, StripBits::even_first);
            m.words(offsetof(BlockIQ3_S, scales), 1).header(offsetof(BlockIQ3_S, d)).transposed();
            break;
        default:
            break;
    }
    return m.layout;
}

struct Layouts {
    std::array<StripLayout, kFormatIdLimit> of{};
    constexpr Layouts() {
        for (int id = 0; id < kFormatIdLimit; ++id)
            of[static_cast<size_t>(id)] = make_layout(static_cast<FormatId>(id));
    }
};
constexpr Layouts kLayouts;

// Every byte of a block is in a strip once.
constexpr bool layouts_hold() {
    for (const FormatInfo& f : registry::kFormats) {
        if (f.run == 0) continue;
        const StripLayout& layout = kLayouts.of[static_cast<size_t>(f.id)];
        if (layout.headers * layout.header_bytes != strip_header_bytes(f.id)) return false;
        int times[256] = {};
        for (int i = 0; i < layout.words; ++i)
            for (int j = 0; j < 4; ++j)
                ++times[layout.word[static_cast<size_t>(i)].offset +
                        j * layout.word[static_cast<size_t>(i)].step];
        for (int i = 0; i < layout.headers; ++i)
            for (int j = 0; j < layout.header_bytes; ++j) ++times[layout.header[static_cast<size_t>(i)] + j];
        for (int i = 0; i < 256; ++i)
            if (times[i] != (i < f.type_size)) return false;
    }
    return true;
}
static_assert(layouts_hold());

// Swaps the bits of the mask with those `distance` above.
constexpr uint32_t swapped(uint32_t word, uint32_t mask, int distance) {
    const uint32_t differ = (word ^ word >> distance) & mask;
    return word ^ differ ^ differ << distance;
}
// In each byte the even bits first, and back.
constexpr uint32_t parted_bytes(uint32_t word) {
    return swapped(swapped(word, 0x22222222, 1), 0x0c0c0c0c, 2);
}
constexpr uint32_t mixed_bytes(uint32_t word) {
    return swapped(swapped(word, 0x0c0c0c0c, 2), 0x22222222, 1);
}
// In all 32 bits.
constexpr uint32_t parted(uint32_t word) {
    return swapped(swapped(parted_bytes(word), 0x00f000f0, 4), 0x0000ff00, 8);
}
constexpr uint32_t mixed(uint32_t word) {
    return mixed_bytes(swapped(swapped(word, 0x0000ff00, 8), 0x00f000f0, 4));
}

uint32_t move_bits(StripBits bits, uint32_t word, bool back) {
    // Bit 4 j + i to 8 i + j: the even ones to the front, twice.
    if (bits == StripBits::by_step) return back ? mixed(mixed(word)) : parted(parted(word));
    if (bits == StripBits::even_first) return back ? mixed_bytes(word) : parted_bytes(word);
    return word;
}

// Lines i of 4 words at from + i * from_stride to columns: word i of line j at to + i * to_stride + 4 * j.
void transpose_four(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride) {
#if defined(__SSE2__)
    __m128i line[4];
    for (int i = 0; i < 4; ++i)
        line[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
    const __m128i a = _mm_unpacklo_epi32(line[0], line[1]), b = _mm_unpacklo_epi32(line[2], line[3]);
    const __m128i c = _mm_unpackhi_epi32(line[0], line[1]), d = _mm_unpackhi_epi32(line[2], line[3]);
    const __m128i column[4] = {_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b), _mm_unpacklo_epi64(c, d),
                               _mm_unpackhi_epi64(c, d)};
    for (int i = 0; i < 4; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * to_stride), column[i]);
#else
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j)
            std::memcpy(to + i * to_stride + 4 * j, from + j * from_stride + 4 * i, 4);
#endif
}

// Copies every byte of a strip's rows: kBack from the strip to the rows.
template <bool kBack>
struct Copy {
    using Byte = std::conditional_t<kBack, uint8_t, const uint8_t>;
    using StripByte = std::conditional_t<kBack, const uint8_t, uint8_t>;
    const FormatInfo& format;
    const StripLayout& layout;
    int lanes;
    int64_t blocks;

    // One word of all rows: `rows` is at its first byte in the first row.
    void word(const StripWord& w, Byte* rows, StripByte* strip) const {
        const int64_t row_bytes = blocks * format.type_size;
        for (int r = 0; r < lanes; ++r, rows += row_bytes, strip += 4) {
            if (w.step == 1 && w.bits == StripBits::as_they_are) {
                copy<4>(rows, strip);
                continue;
            }
            uint32_t bytes = 0;
            if constexpr (kBack) {
                std::memcpy(&bytes, strip, 4);
                bytes = move_bits(w.bits, bytes, true);
                for (int i = 0; i < 4; ++i) rows[i * w.step] = static_cast<uint8_t>(bytes >> 8 * i);
            } else {
                for (int i = 0; i < 4; ++i) bytes |= static_cast<uint32_t>(rows[i * w.step]) << 8 * i;
                bytes = move_bits(w.bits, bytes, false);
                std::memcpy(strip, &bytes, 4);
            }
        }
    }
    // Whether words i to i + 3 are sixteen bytes of the block as they are.
    bool four(int i) const {
        if (i + 4 > layout.words) return false;
        for (int j = 0; j < 4; ++j) {
            const StripWord& w = layout.word[static_cast<size_t>(i + j)];
            if (w.step != 1 || w.bits != StripBits::as_they_are ||
                w.offset != layout.word[static_cast<size_t>(i)].offset + 4 * j)
                return false;
        }
        return true;
    }
    void four_words(Byte* rows, StripByte* strip) const {
        const int64_t row_bytes = blocks * format.type_size;
        for (int r = 0; r < lanes; r += 4, rows += 4 * row_bytes, strip += 16) {
            if constexpr (kBack)
                transpose_four(strip, 4 * lanes, rows, row_bytes);
            else
                transpose_four(rows, row_bytes, strip, 4 * lanes);
        }
    }
    template <int kBytes>
    static void copy(Byte* row, StripByte* strip) {
        if constexpr (kBack)
            std::memcpy(row, strip, kBytes);
        else
            std::memcpy(strip, row, kBytes);
    }
    void header(Byte* rows, StripByte* strip) const {
        const int64_t row_bytes = blocks * format.type_size;
        for (int r = 0; r < lanes; ++r, rows += row_bytes, strip += layout.header_bytes) {
            if (layout.header_bytes == 2)
                copy<2>(rows, strip);
            else
                copy<1>(rows, strip);
        }
    }
    void all(Byte* rows, StripByte* strip) const {
        StripByte* headers = strip + int64_t{4} * lanes * layout.words * blocks;
        bool fours[52] = {};
        for (int i = 0; i < layout.words; ++i) fours[i] = four(i);
        for (int64_t b = 0; b < blocks; ++b, rows += format.type_size) {
            for (int i = 0; i < layout.words;) {
                const StripWord& w = layout.word[static_cast<size_t>(i)];
                const int count = fours[i] ? 4 : 1;
                if (count == 4)
                    four_words(rows + w.offset, strip);
                else
                    word(w, rows + w.offset, strip);
                i += count;
                strip += 4 * lanes * count;
            }
            for (int i = 0; i < layout.headers; ++i, headers += layout.header_bytes * lanes)
                header(rows + layout.header[static_cast<size_t>(i)], headers);
        }
    }
};

}  // namespace

const StripLayout& strip_layout(FormatId id) {
    return kLayouts.of[static_cast<size_t>(id)];
}

void rows_to_strip(FormatId id, int lanes, int64_t blocks, const uint8_t* rows, uint8_t* strip) {
    Copy<false>{format_info(id), strip_layout(id), lanes, blocks}.all(rows, strip);
}

void strip_to_rows(FormatId id, int lanes, int64_t blocks, const uint8_t* strip, uint8_t* rows) {
    Copy<true>{format_info(id), strip_layout(id), lanes, blocks}.all(rows, strip);
}

}  // namespace bq
