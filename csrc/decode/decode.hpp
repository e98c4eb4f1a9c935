// Rows of blocks to float32, float16 or bfloat16: the bits of the scalar reference (csrc/formats) on every
// instruction set, so a multiplication, rounded, and a subtraction, rounded; never fused.
#pragma once

#include "simd/levels.hpp"

namespace bq {
namespace {

struct OutF32 {
    static constexpr bool kPlainNans = false;
    using Element = float;
    template <class S>
    static BQ_INLINE void store(float* out, typename S::Wide v) {
        S::store_f32(out, v);
    }
    template <class S>
    static BQ_INLINE void store(float* out, typename S::Wide a, typename S::Wide b) {
        S::store_f32(out, a);
        S::store_f32(out + S::kWide, b);
    }
};
// The same past the caches: `out` must be a multiple of S::kStreams.
struct OutF32PastCaches {
    static constexpr bool kPlainNans = false;
    using Element = float;
    template <class S>
    static BQ_INLINE void store(float* out, typename S::Wide v) {
        S::stream_f32(out, v);
    }
    template <class S>
    static BQ_INLINE void store(float* out, typename S::Wide a, typename S::Wide b) {
        S::stream_f32(out, a);
        S::stream_f32(out + S::kWide, b);
    }
};
struct OutF16 {
    static constexpr bool kPlainNans = false;
    using Element = uint16_t;
    template <class S>
    static BQ_INLINE void store(uint16_t* out, typename S::Wide v) {
        S::store_f16(out, v);
    }
    template <class S>
    static BQ_INLINE void store(uint16_t* out, typename S::Wide a, typename S::Wide b) {
        S::store_f16(out, a, b);
    }
    template <class S>
    static BQ_INLINE typename S::Table table(typename S::Wide a, typename S::Wide b) {
        return S::table_f16(a, b);
    }
};
struct OutBF16 {
    static constexpr bool kPlainNans = false;
    using Element = uint16_t;
    template <class S>
    static BQ_INLINE void store(uint16_t* out, typename S::Wide v) {
        S::store_bf16(out, v);
    }
    template <class S>
    static BQ_INLINE void store(uint16_t* out, typename S::Wide a, typename S::Wide b) {
        S::store_bf16(out, a, b);
    }
};
// The same where the only NaNs are quiet ones with no more bits set: rounding does not carry these away, so
// that they need no care.
struct OutBF16PlainNans : OutBF16 {
    static constexpr bool kPlainNans = true;
    template <class S>
    static BQ_INLINE void store(uint16_t* out, typename S::Wide a, typename S::Wide b) {
        S::store_bf16_plain_nans(out, a, b);
    }
    template <class S>
    static BQ_INLINE typename S::Table table(typename S::Wide a, typename S::Wide b) {
        return S::table_bf16_plain_nans(a, b);
    }
};

// Both past the caches, where a vocabulary has 64 bytes of 16-bit floats in a vector (kStreams of them).
struct OutF16PastCaches : OutF16 {
    template <class S>
    static BQ_INLINE void store(uint16_t* out, typename S::Wide a, typename S::Wide b) {
        S::stream_table(out, S::table_f16(a, b));
    }
};
struct OutBF16PastCaches : OutBF16PlainNans {
    template <class S>
    static BQ_INLINE void store(uint16_t* out, typename S::Wide a, typename S::Wide b) {
        S::stream_table(out, S::table_bf16_plain_nans(a, b));
    }
};

// The scales of kBlocks blocks in memory, a float for each run; minima likewise, if the format has them (else
// a null pointer). With kPlainNans NaNs lose the bits they came with.
template <class S, FormatId id, int kBlocks, class Out>
BQ_INLINE void load_scales(const uint8_t* w, float* scales, float* minima) {
    using F = Unpack<S, id>;
    typename S::Floats scale[2], minimum[2];
    F::template scales<kBlocks>(w, scale, minimum);
    for (int i = 0; i < 32 / F::kRun; ++i) {
        if constexpr (Out::kPlainNans) scale[i] = S::plain_nans(scale[i]);
        S::store8(scales + 8 * i, scale[i]);
        if constexpr (CommonForm<id>::has_minima) {
            if constexpr (Out::kPlainNans) minimum[i] = S::plain_nans(minimum[i]);
            S::store8(minima + 8 * i, minimum[i]);
        }
    }
}

// The values of one chunk of 32: body(i, vector) for the 32 / S::kWide vectors in order. `scale` and
// `minimum` point at the chunk's one float, or two for runs of 16.
template <class S, FormatId id, class Body>
BQ_INLINE void chunk_values(typename S::Bytes raw, const float* scale, const float* minimum, Body&& body) {
    using F = Unpack<S, id>;
    if constexpr (F::kOffset != 0) raw = S::sub(raw, S::splat(F::kOffset));
    S::template repeat<32 / S::kWide>([&](int i) BQ_INLINE_LAMBDA {
        const int half = i * S::kWide / F::kRun;
        auto v = S::mul(S::widen(raw, i), S::wide_splat(scale[half]));
        if constexpr (CommonForm<id>::has_minima) v = S::sub(v, S::wide_splat(minimum[half]));
        body(i, v);
    });
}

// kBlocks blocks, 256 elements at most, whose scales are at hand: body(chunk, i, vector).
template <class S, FormatId id, int kBlocks, class Body>
BQ_INLINE void blocks_values(const uint8_t* w, const float* scales, const float* minima, Body&& body) {
    using F = Unpack<S, id>;
    using Form = CommonForm<id>;
    constexpr int kRunsPerChunk = 32 / F::kRun, kChunksPerBlock = Form::elements / 32;
    S::template repeat<kBlocks * kChunksPerBlock>([&](int j) BQ_INLINE_LAMBDA {
        const auto raw = F::chunk(w + j / kChunksPerBlock * Form::bytes, j % kChunksPerBlock);
        chunk_values<S, id>(raw, scales + j * kRunsPerChunk,
                            Form::has_minima ? minima + j * kRunsPerChunk : nullptr,
                            [&](int i, typename S::Wide v) BQ_INLINE_LAMBDA { body(j, i, v); });
    });
}

// The same with their scales.
template <class S, FormatId id, int kBlocks, class Body>
BQ_INLINE void blocks_values(const uint8_t* w, Body&& body) {
    constexpr int kScales = 256 / Unpack<S, id>::kRun;
    float scales[kScales], minima[kScales];
    load_scales<S, id, kBlocks, OutF32>(w, scales, minima);
    blocks_values<S, id, kBlocks>(w, scales, minima, body);
}

// The same stored, two vectors at a time.
template <class S, FormatId id, int kBlocks, class Out>
BQ_INLINE void decode_blocks(const uint8_t* w, const float* scales, const float* minima,
                             typename Out::Element* out) {
    typename S::Wide first = S::wide_zero();
    blocks_values<S, id, kBlocks>(w, scales, minima, [&](int j, int i, typename S::Wide v) BQ_INLINE_LAMBDA {
        if (i % 2 == 0)
            first = v;
        else
            Out::template store<S>(out + j * 32 + (i - 1) * S::kWide, first, v);
    });
}

// kBlocks blocks to 16-bit floats by way of tables of the values of each run.
template <class S, FormatId id, int kBlocks, class Out>
BQ_INLINE void decode_blocks_by_level(const uint8_t* w, const uint8_t* prepared, const float* scales,
                                      const float* minima, uint16_t* out) {
    using L = Levels<S, id>;
    using Form = CommonForm<id>;
    static constexpr LevelFloats<S, id> kFloats;
    constexpr int kRunsPerChunk = 32 / Unpack<S, id>::kRun, kChunks = kBlocks * Form::elements / 32;
    constexpr int kEntries = kRunsPerChunk * L::kCount, kTable = 2 * S::kWide;
    constexpr int kChunksPerTable = kTable / kEntries;
    static_assert(kTable % kEntries == 0);
    const auto values = [&](int i) BQ_INLINE_LAMBDA {
        const int run = i * S::kWide / L::kCount, first = i * S::kWide % L::kCount;
        const auto v =
            S::mul(S::load_f32(kFloats.v + first), S::template repeat_each<L::kCount>(scales + run));
        if constexpr (!Form::has_minima) return v;
        return S::sub(v, S::template repeat_each<L::kCount>(minima + run));
    };
    typename S::Table table{};
    S::template repeat<kChunks>([&](auto j) BQ_INLINE_LAMBDA {
        if (j % kChunksPerTable == 0) {
            const int i = 2 * (j / kChunksPerTable);
            table = Out::template table<S>(values(i), values(i + 1));
        }
        const auto index = ChunkLevels<S, id>::index(w, prepared, j);
        S::template look_up<kEntries>(out + j * 32, table, j % kChunksPerTable, index);
    });
}

// Whether the values of a run come from a table.
template <class S, FormatId id, class Out>
static constexpr bool kDecodesByLevel = sizeof(typename Out::Element) == 2 && Levels<S, id>::kCount != 0 &&
                                        32 / Unpack<S, id>::kRun * Levels<S, id>::kCount <= S::kLooksUp;

// Scales are computed for some hundreds of elements ahead of their use: a processor that waits for the scales
// of 256 elements at a time has too little else to do.
template <class S, FormatId id, class Out>
void decode_row_of(const uint8_t* w, typename Out::Element* out, int64_t k) {
    using Form = CommonForm<id>;
    using Prepared = ChunkLevels<S, id>;
    constexpr int kRunsPerChunk = 32 / Unpack<S, id>::kRun;
    constexpr bool kByLevel = kDecodesByLevel<S, id, Out>;
    constexpr int kBlocks = 256 / Form::elements, kBytes = kBlocks * Form::bytes, kScales = 8 * kRunsPerChunk;
    constexpr int kAhead = 8, kPrepared = kByLevel ? Prepared::kBytes : 1;
    float scales[kAhead * kScales], minima[Form::has_minima ? kAhead * kScales : 1];
    alignas(64) uint8_t prepared[kAhead * kPrepared];
    const auto prepare = [&](auto blocks, int64_t at) BQ_INLINE_LAMBDA {
        const uint8_t* from = w + at * kBytes;
        load_scales<S, id, decltype(blocks)::value, Out>(from, scales + at * kScales,
                                                         Form::has_minima ? minima + at * kScales : nullptr);
        if constexpr (kByLevel) Prepared::prepare(from, prepared + at * kPrepared);
    };
    const auto decode = [&](auto blocks, int64_t at) BQ_INLINE_LAMBDA {
        constexpr int n = decltype(blocks)::value;
        const uint8_t* from = w + at * kBytes;
        const float* const scale = scales + at * kScales;
        const float* const minimum = Form::has_minima ? minima + at * kScales : nullptr;
        if constexpr (kByLevel)
            decode_blocks_by_level<S, id, n, Out>(from, prepared + at * kPrepared, scale, minimum,
                                                  out + at * 256);
        else
            decode_blocks<S, id, n, Out>(from, scale, minimum, out + at * 256);
    };
    while (k >= 256) {
        const int64_t ahead = k / 256 < kAhead ? k / 256 : kAhead;
        for (int64_t i = 0; i < ahead; ++i) prepare(Index<kBlocks>{}, i);
        keep_in_memory(scales);
        if constexpr (Form::has_minima) keep_in_memory(minima);
        for (int64_t i = 0; i < ahead; ++i) decode(Index<kBlocks>{}, i);
        w += ahead * kBytes;
        out += ahead * 256;
        k -= ahead * 256;
    }
    if constexpr (kBlocks > 1)
        for (; k > 0; k -= Form::elements, w += Form::bytes, out += Form::elements) {
            prepare(Index<1>{}, 0);
            decode(Index<1>{}, 0);
        }
}

// ---- the float formats: kWide elements at once, the last ones through a padded copy
template <class S, FormatId id>
BQ_INLINE typename S::Wide load_floats(const uint8_t* w) {
    if constexpr (id == FormatId::F32) return S::load_f32(w);
    if constexpr (id == FormatId::F16) return S::load_f16(w);
    if constexpr (id == FormatId::BF16) return S::load_bf16(w);
}

template <class S, FormatId id, class Out>
void decode_floats(const uint8_t* w, typename Out::Element* out, int64_t k) {
    constexpr int kBytes = id == FormatId::F32 ? 4 : 2;
    int64_t i = 0;
    for (; i + S::kWide <= k; i += S::kWide)
        Out::template store<S>(out + i, load_floats<S, id>(w + i * kBytes));
    if (i < k) {
        uint8_t in[S::kWide * kBytes] = {};
        typename Out::Element rest[S::kWide];
        memcpy(in, w + i * kBytes, static_cast<size_t>((k - i) * kBytes));
        Out::template store<S>(rest, load_floats<S, id>(in));
        memcpy(out + i, rest, static_cast<size_t>(k - i) * sizeof *out);
    }
}

// See StreamCopy.
template <class S>
void stream_copy(void* to, const void* from, int64_t bytes) {
    uint8_t* out = static_cast<uint8_t*>(to);
    const uint8_t* in = static_cast<const uint8_t*>(from);
    const int64_t misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % S::kStreams);
    const int64_t before = misaligned == 0 ? 0 : S::kStreams - misaligned;
    const int64_t head = before < bytes ? before : bytes;
    memcpy(out, in, static_cast<size_t>(head));
    int64_t i = head;
    for (; i + S::kStreams <= bytes; i += S::kStreams) S::stream(out + i, in + i);
    memcpy(out + i, in + i, static_cast<size_t>(bytes - i));
}

// Same type in and out: the bits as they are.
template <int kBytes, class Element>
void copy_floats(const uint8_t* w, Element* out, int64_t k) {
    memcpy(out, w, static_cast<size_t>(k * kBytes));
}

}  // namespace
}  // namespace bq
