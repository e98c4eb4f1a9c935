// What the vocabularies and the kernels share. A vocabulary is a struct of static functions, one per
// instruction set; kernels are templates over it. The operations are listed in scalar.hpp.
//
// Everything here and in the kernels is in an anonymous namespace: each csrc/targets/<isa>.cpp gets its own
// copy, compiled with its own flags, and the linker can share none of them. Call nothing of std::.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(_MSC_VER) && !defined(__clang__)
#define BQ_NOINLINE __declspec(noinline)
#else
#define BQ_NOINLINE __attribute__((noinline))
#endif
#if defined(_MSC_VER) && !defined(__clang__)
#define BQ_INLINE __forceinline
#define BQ_INLINE_LAMBDA
#elif defined(BQ_NO_FORCED_INLINING)
#define BQ_INLINE inline
#define BQ_INLINE_LAMBDA
#else
#define BQ_INLINE inline __attribute__((always_inline))
#define BQ_INLINE_LAMBDA __attribute__((always_inline))
#endif

namespace bq {
namespace {

// The compiler must take these numbers from memory: for a vector that is stored and then read lane by lane,
// gcc would rather shuffle registers, which costs more than loads that broadcast.
template <class T, int N>
BQ_INLINE void keep_in_memory([[maybe_unused]] T (&values)[N]) {
#if defined(__GNUC__)
    __asm__("" : "+m"(values));
#endif
}

// The compiler must have this vector or number in a register: gcc would rather load a vector anew for each
// product, or the parts of a number one by one, and loads would bind; and sums of which it knows all terms it
// adds up as a tree, terms first, and runs out of registers. (Without AVX, vectors may need two.)
template <class T>
BQ_INLINE void keep_in_register([[maybe_unused]] T& vector) {
#if defined(__GNUC__) && defined(__AVX__)
    if constexpr (!__is_class(T)) __asm__("" : "+x"(vector));
#endif
}
BQ_INLINE void keep_in_register([[maybe_unused]] uint32_t& number) {
#if defined(__GNUC__)
    __asm__("" : "+r"(number));
#endif
}

// Loads at any address.
template <class T>
BQ_INLINE T load_as(const void* p) {
    T value;
    memcpy(&value, p, sizeof value);
    return value;
}

inline constexpr uint64_t kOneInEachByte = 0x0101010101010101ull;

// Asks for the cache lines of kBytes bytes from p on, which need not exist, to come to the level-2 cache: the
// first level has no room for what is wanted so much later.
template <int kBytes>
BQ_INLINE void prefetch([[maybe_unused]] const uint8_t* p) {
#if defined(__GNUC__)
    for (int at = 0; at < kBytes; at += 64) __builtin_prefetch(p + at, 0, 2);
#endif
}

// How far ahead, in bytes, weights are asked for: the prefetchers of the CPU are late for short rows, and see
// no stream in several of them. Rows that are read side by side need all of themselves ahead.
inline constexpr int64_t kBytesAhead = 8 << 10;
BQ_INLINE int64_t bytes_ahead(int64_t rows, int64_t row_bytes) {
    return rows > 1 && rows * row_bytes > kBytesAhead ? rows * row_bytes : kBytesAhead;
}

// Where a kernel is faster than memory, it asks for each line several times, this many bytes after one
// another: measured to be up to twice as fast as asking once (csrc/matmul/README.md).
inline constexpr int64_t kAskedApart = 8 << 10;

// The lines of an 8 x 8 matrix of 32-bit words, given its columns: line i at out + i * stride, the first
// `count`.
BQ_INLINE void transpose_words(const uint8_t (&columns)[8][32], uint8_t* out, int64_t stride, int count) {
    for (int i = 0; i < count; ++i)
        for (int j = 0; j < 8; ++j) memcpy(out + i * stride + 4 * j, columns[j] + 4 * i, 4);
}

template <class A, class B>
struct IsSame {
    static constexpr bool value = false;
};
template <class A>
struct IsSame<A, A> {
    static constexpr bool value = true;
};

// std::conditional: the headers of a kernel are its own.
template <bool kFirst, class A, class B>
struct Choose {
    using Type = A;
};
template <class A, class B>
struct Choose<false, A, B> {
    using Type = B;
};

template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I>
struct MakeIndices<0, I...> {
    using type = Indices<I...>;
};

template <int I>
struct Index {
    static constexpr int value = I;
    BQ_INLINE constexpr operator int() const { return I; }
};

template <class Body, int... I>
BQ_INLINE void unroll_over(Indices<I...>, Body&& body) {
    (body(Index<I>{}), ...);
}
// body(Index<0>{}), ..., body(Index<N - 1>{}): an unrolled loop. The counter converts to int, a constant once
// the body is inlined; where the language asks for a constant, decltype(i)::value is one.
template <int N, class Body>
BQ_INLINE void unroll(Body&& body) {
    unroll_over(typename MakeIndices<N>::type{}, body);
}

}  // namespace
}  // namespace bq
