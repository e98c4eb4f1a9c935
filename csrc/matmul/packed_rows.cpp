#include "matmul/packed_rows.hpp"

#include <algorithm>
#include <cstring>

namespace bq {
namespace {

constexpr int kMostRows = kLaneTile;  // of a tile
constexpr int64_t kPiece = 128;       // words of a row that are packed at a time
alignas(64) constexpr uint32_t kZeros[kPiece] = {};

uint32_t load_word(const void* p) {
    uint32_t word;
    std::memcpy(&word, p, sizeof word);
    return word;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define BQ_SHUFFLES 1
#endif
#endif
#if defined(BQ_SHUFFLES)
using Four = uint32_t __attribute__((vector_size(16)));

Four load_four(const uint8_t* p) {
    Four words;
    std::memcpy(&words, p, sizeof words);
    return words;
}

// Two words of `a` by turns with two of `b`: the first two, or the last.
Four zip_first(Four a, Four b) {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
}
Four zip_last(Four a, Four b) {
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
}
#endif

// to[i * stride + r] = word i of row r, for four rows.
void interleave_four(const uint8_t* const* rows, int64_t words, uint32_t* to, int stride) {
    int64_t i = 0;
#if defined(BQ_SHUFFLES)
    for (; i + 4 <= words; i += 4) {
        const Four a = load_four(rows[0] + 4 * i), b = load_four(rows[1] + 4 * i);
        const Four c = load_four(rows[2] + 4 * i), d = load_four(rows[3] + 4 * i);
        const Four even[2] = {zip_first(a, c), zip_last(a, c)}, odd[2] = {zip_first(b, d), zip_last(b, d)};
        for (int half = 0; half < 2; ++half) {
            const Four first = zip_first(even[half], odd[half]), second = zip_last(even[half], odd[half]);
            std::memcpy(to + (i + 2 * half) * stride, &first, sizeof first);
            std::memcpy(to + (i + 2 * half + 1) * stride, &second, sizeof second);
        }
    }
#endif
    for (; i < words; ++i)
        for (int r = 0; r < 4; ++r) to[i * stride + r] = load_word(rows[r] + 4 * i);
}

// The same for two rows.
void interleave_two(const uint8_t* const* rows, int64_t words, uint32_t* to, int stride) {
    int64_t i = 0;
#if defined(BQ_SHUFFLES)
    for (; i + 4 <= words; i += 4) {
        const Four a = load_four(rows[0] + 4 * i), b = load_four(rows[1] + 4 * i);
        const Four pairs[2] = {zip_first(a, b), zip_last(a, b)};
        for (int j = 0; j < 4; ++j)
            std::memcpy(to + (i + j) * stride, reinterpret_cast<const char*>(pairs) + 8 * j, 8);
    }
#endif
    for (; i < words; ++i)
        for (int r = 0; r < 2; ++r) to[i * stride + r] = load_word(rows[r] + 4 * i);
}

// Words of the rows of a tile side by side, to[i * count + r] = word i of row r. piece(r, at, words) gives
// the bytes of `words` words of row r from word `at` on; rows from `valid` on are zeros.
template <class Piece>
void interleave(int count, int valid, int64_t words, uint32_t* to, Piece&& piece) {
    // In pieces whose places in the tile stay in the level-1 cache.
    for (int64_t at = 0; at < words; at += kPiece) {
        const int64_t here = std::min(kPiece, words - at);
        const uint8_t* rows[kMostRows];
        for (int r = 0; r < count; ++r)
            rows[r] = r < valid ? piece(r, at, here) : reinterpret_cast<const uint8_t*>(kZeros);
        uint32_t* const place = to + at * count;
        int r = 0;
        for (; r + 4 <= count; r += 4) interleave_four(rows + r, here, place + r, count);
        for (; r + 2 <= count; r += 2) interleave_two(rows + r, here, place + r, count);
        for (; r < count; ++r)
            for (int64_t i = 0; i < here; ++i) place[i * count + r] = load_word(rows[r] + 4 * i);
    }
}

// to[i] = the sum of each `of` numbers that follow each other.
template <class T>
void add_up(const int16_t* numbers, int64_t sums, int64_t of, T* to) {
    if (of == 1)
        for (int64_t i = 0; i < sums; ++i) to[i] = static_cast<T>(numbers[i]);
    else if (of == 2)
        for (int64_t i = 0; i < sums; ++i) to[i] = static_cast<T>(numbers[2 * i] + numbers[2 * i + 1]);
    else
        for (int64_t i = 0; i < sums; ++i) {
            int32_t all = 0;
            for (int64_t j = 0; j < of; ++j) all += numbers[i * of + j];
            to[i] = static_cast<T>(all);
        }
}

// One tile of `count` rows from `first` on, of which `valid` exist.
void pack_tile(const Activations& x, int64_t first, int count, int valid, const PanelShape& shape,
               const PackedRows& out) {
    const int64_t k = x.k, runs = k / shape.run, scales = k / x.run;
    // out's pointers are const for the kernels that read; this is the one that fills them.
    int8_t* q = const_cast<int8_t*>(out.q) + first * k;
    int32_t* start = const_cast<int32_t*>(out.start) + first * runs;
    float* scale = const_cast<float*>(out.scales) + first * scales;
    interleave(count, valid, k / 4, reinterpret_cast<uint32_t*>(q), [&](int r, int64_t at, int64_t) {
        return reinterpret_cast<const uint8_t*>(x.q + (first + r) * k + 4 * at);
    });
    if (shape.raised)
        for (int64_t i = 0; i < count * k; ++i) q[i] = static_cast<int8_t>(q[i] ^ -128);
    interleave(count, valid, scales, reinterpret_cast<uint32_t*>(scale), [&](int r, int64_t at, int64_t) {
        return reinterpret_cast<const uint8_t*>(x.scales + (first + r) * scales + at);
    });
    const auto sums_of = [&](int r, int64_t from, int64_t sums, int64_t run, auto* to) {
        add_up(x.whole_sums + (first + r) * (k / 16) + from * (run / 16), sums, run / 16, to);
    };
    alignas(64) uint8_t words[kMostRows][4 * kPiece];
    interleave(count, valid, runs, reinterpret_cast<uint32_t*>(start), [&](int r, int64_t at, int64_t here) {
        if (shape.offset == 0) return reinterpret_cast<const uint8_t*>(kZeros);
        auto* const to = reinterpret_cast<int32_t*>(words[r]);
        sums_of(r, at, here, shape.run, to);
        for (int64_t i = 0; i < here; ++i) to[i] *= -shape.offset;
        return static_cast<const uint8_t*>(words[r]);
    });
    const bool pairs = shape.minimum_run != 0;
    const int64_t sums = pairs ? k / shape.minimum_run / 2 : shape.has_minima ? runs : 0;
    uint32_t* const sum = reinterpret_cast<uint32_t*>(const_cast<float*>(out.sums)) + first * sums;
    interleave(count, valid, sums, sum, [&](int r, int64_t at, int64_t here) {
        if (pairs)
            sums_of(r, 2 * at, 2 * here, shape.minimum_run, reinterpret_cast<int16_t*>(words[r]));
        else
            sums_of(r, at, here, shape.run, reinterpret_cast<float*>(words[r]));
        return static_cast<const uint8_t*>(words[r]);
    });
}

// body(first, count, valid) for the tiles that start in begin <= first < end.
template <class Body>
void each_tile(int64_t begin, int64_t end, int64_t rows, int tile_rows, Body&& body) {
    for (int64_t first = 0; first < end;) {
        const int64_t left = rows - first;
        const int count = next_tile(left, tile_rows);
        if (first >= begin) body(first, count, static_cast<int>(left < count ? left : count));
        first += count;
    }
}

}  // namespace

int64_t padded_rows(int64_t rows, int tile_rows) {
    int64_t all = 0;
    each_tile(0, rows, rows, tile_rows, [&](int64_t, int count, int) { all += count; });
    return all;
}

PackedLayout PackedLayout::of(int64_t rows, int64_t k, const PanelShape& shape) {
    PackedLayout layout{};
    const int64_t all = padded_rows(rows, shape.tile_rows), run_floats = all * (k / shape.run) * 4;
    layout.start_offset = whole_lines(all * k);
    layout.scales_offset = layout.start_offset + whole_lines(run_floats);
    layout.sums_offset = layout.scales_offset + whole_lines(all * (k / kActivationRun) * 4);
    const int64_t pairs = shape.minimum_run != 0 ? all * (k / shape.minimum_run) / 2 * 4 : 0;
    layout.bytes = layout.sums_offset + (pairs != 0 ? pairs : shape.has_minima ? run_floats : 0);
    return layout;
}

PackedRows PackedLayout::view(const void* base, int64_t rows, int64_t k) const {
    const auto* bytes = static_cast<const uint8_t*>(base);
    return {reinterpret_cast<const int8_t*>(bytes),
            reinterpret_cast<const int32_t*>(bytes + start_offset),
            reinterpret_cast<const float*>(bytes + scales_offset),
            reinterpret_cast<const float*>(bytes + sums_offset),
            rows,
            k};
}

int64_t packed_float_bytes(int64_t rows, int64_t k, int tile_rows) {
    return padded_rows(rows, tile_rows) * k * 4;
}

void pack_rows(const Activations& x, int64_t begin, int64_t end, const PanelShape& shape,
               const PackedRows& out) {
    each_tile(begin, end, x.rows, shape.tile_rows,
              [&](int64_t first, int count, int valid) { pack_tile(x, first, count, valid, shape, out); });
}

void pack_float_rows(const float* x, int64_t begin, int64_t end, int tile_rows, const PackedFloats& out) {
    const int64_t k = out.k;
    each_tile(begin, end, out.rows, tile_rows, [&](int64_t first, int count, int valid) {
        auto* to = reinterpret_cast<uint32_t*>(const_cast<float*>(out.x) + first * k);
        interleave(count, valid, k, to, [&](int r, int64_t at, int64_t) {
            return reinterpret_cast<const uint8_t*>(x + (first + r) * k + at);
        });
    });
}

int64_t packed_bf16_bytes(int64_t rows, int64_t k, int tile_rows) {
    return padded_rows(rows, tile_rows) * ((k + 1) / 2) * 4;
}

void pack_bf16_rows(const float* x, int64_t begin, int64_t end, int tile_rows, const PackedFloats& out,
                    void (*round)(const uint8_t*, uint16_t*, int64_t)) {
    const int64_t k = out.k, words = (k + 1) / 2;
    each_tile(begin, end, out.rows, tile_rows, [&](int64_t first, int count, int valid) {
        auto* to = reinterpret_cast<uint32_t*>(const_cast<float*>(out.x)) + first * words;
        uint16_t rounded[kMostRows][2 * kPiece];
        interleave(count, valid, words, to, [&](int r, int64_t at, int64_t here) {
            const int64_t elements = std::min(2 * here, k - 2 * at);
            rounded[r][2 * here - 1] = 0;  // where k is odd
            round(reinterpret_cast<const uint8_t*>(x + (first + r) * k + 2 * at), rounded[r], elements);
            return reinterpret_cast<const uint8_t*>(rounded[r]);
        });
    });
}

}  // namespace bq
