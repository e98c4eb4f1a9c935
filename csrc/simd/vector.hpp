// Vectors of numbers for the vocabulary of any CPU: Vector<T, N> is the extension of gcc and clang, for which
// they use what the CPU has, or elsewhere loops. (The loops they unroll, and seldom put together again: that
// took minutes to compile, and ran at a third of the speed.)
#pragma once

#include <cstddef>

#include "simd/common.hpp"

namespace bq {
namespace {

// Each operation element by element, integers modulo 2^bits; a shift moves all elements by as many bits.
template <class T, int N>
struct LoopVector {
    T v[N];

    BQ_INLINE T& operator[](int i) { return v[i]; }
    BQ_INLINE const T& operator[](int i) const { return v[i]; }

    template <class Body>
    static BQ_INLINE LoopVector each(Body&& body) {
        LoopVector out;
        for (int i = 0; i < N; ++i) out.v[i] = static_cast<T>(body(i));
        return out;
    }
    friend BQ_INLINE LoopVector operator+(LoopVector a, LoopVector b) {
        return each([&](int i) { return a.v[i] + b.v[i]; });
    }
    friend BQ_INLINE LoopVector operator-(LoopVector a, LoopVector b) {
        return each([&](int i) { return a.v[i] - b.v[i]; });
    }
    friend BQ_INLINE LoopVector operator*(LoopVector a, LoopVector b) {
        return each([&](int i) { return 1u * a.v[i] * b.v[i]; });  // not as int, which could overflow
    }
    friend BQ_INLINE LoopVector operator&(LoopVector a, LoopVector b) {
        return each([&](int i) { return a.v[i] & b.v[i]; });
    }
    friend BQ_INLINE LoopVector operator|(LoopVector a, LoopVector b) {
        return each([&](int i) { return a.v[i] | b.v[i]; });
    }
    friend BQ_INLINE LoopVector operator^(LoopVector a, LoopVector b) {
        return each([&](int i) { return a.v[i] ^ b.v[i]; });
    }
    friend BQ_INLINE LoopVector operator<<(LoopVector a, int bits) {
        return each([&](int i) { return a.v[i] << bits; });
    }
    friend BQ_INLINE LoopVector operator>>(LoopVector a, int bits) {
        return each([&](int i) { return a.v[i] >> bits; });
    }
};

// convert_each: the numbers as those of another type.
template <class To, int N, class T>
BQ_INLINE LoopVector<To, N> convert_each(const LoopVector<T, N>& a) {
    return LoopVector<To, N>::each([&](int i) { return a.v[i]; });
}

#if defined(__GNUC__)
template <class T, int N>
struct VectorOf {
    typedef T Type __attribute__((vector_size(N * sizeof(T))));
};
template <class To, int N, class V>
BQ_INLINE typename VectorOf<To, N>::Type convert_each(V a) {
    return __builtin_convertvector(a, typename VectorOf<To, N>::Type);
}
#else
template <class T, int N>
struct VectorOf {
    using Type = LoopVector<T, N>;
};
#endif
template <class T, int N>
using Vector = typename VectorOf<T, N>::Type;

template <class V>
BQ_INLINE void store_vector(void* p, const V& v) {
    memcpy(p, &v, sizeof v);
}
// The same bytes as another vector.
template <class To, class V>
BQ_INLINE To vector_as(const V& v) {
    static_assert(sizeof(To) == sizeof(V));
    return load_as<To>(&v);
}
// N times the same number.
template <class V, class T>
BQ_INLINE V splat_vector(T value) {
    V v;
    for (size_t i = 0; i < sizeof v / sizeof value; ++i) v[i] = value;
    return v;
}

}  // namespace
}  // namespace bq
