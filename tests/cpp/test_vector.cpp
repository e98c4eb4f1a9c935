// The loops that stand in for the vector extension, against the extension or, without it, plain arithmetic.
#include <doctest/doctest.h>

#include <cmath>
#include <type_traits>

#include "rng.hpp"
#include "simd/vector.hpp"

using namespace bq;

namespace {

// Integers of all bits; floats of all magnitudes, both zeros among them.
template <class T>
T number(Rng& rng) {
    if constexpr (std::is_floating_point_v<T>)
        return rng.next() % 8 == 0 ? std::copysign(T{0}, rng.uniform())
                                   : std::ldexp(rng.uniform(), static_cast<int>(rng.next() % 60) - 30);
    else
        return static_cast<T>(rng.next());
}

template <class T, int N>
LoopVector<T, N> numbers(Rng& rng) {
    return LoopVector<T, N>::each([&](int) { return number<T>(rng); });
}

template <class Loop, class V>
void check_same(const Loop& loop, const V& vector) {
    static_assert(sizeof loop == sizeof vector);
    CHECK(std::memcmp(&loop, &vector, sizeof loop) == 0);
}

template <class T, int N>
void check_arithmetic() {
    using V = Vector<T, N>;
    Rng rng(sizeof(T) * 100 + N);
    for (int round = 0; round < 50; ++round) {
        const auto a = numbers<T, N>(rng), b = numbers<T, N>(rng);
        const V x = vector_as<V>(a), y = vector_as<V>(b);
        constexpr bool is_integer = !std::is_floating_point_v<T>, has_sign = std::is_signed_v<T>;
        if constexpr (is_integer && has_sign) {  // results that T holds
            constexpr int half = 4 * sizeof(T);
            check_same((a >> half) * (b >> half), (x >> half) * (y >> half));
            check_same((a >> 1) + (b >> 1), (x >> 1) + (y >> 1));
            check_same((a >> 1) - (b >> 1), (x >> 1) - (y >> 1));
        } else {
            check_same(a * b, x * y);
            check_same(a + b, x + y);
            check_same(a - b, x - y);
        }
        if constexpr (is_integer) {
            check_same(a & b, x & y);
            check_same(a | b, x | y);
            check_same(a ^ b, x ^ y);
            for (int bits = 0; bits < static_cast<int>(8 * sizeof(T)); ++bits) {
                check_same(a >> bits, x >> bits);
                if constexpr (!has_sign) check_same(a << bits, x << bits);
            }
        }
        for (int i = 0; i < N; ++i) CHECK(std::memcmp(&a[i], &a.v[i], sizeof(T)) == 0);
    }
}

// From numbers that `To` holds, but for integers that lose their upper bits.
template <class To, class From>
void check_conversion() {
    Rng rng(7);
    for (int round = 0; round < 50; ++round) {
        const auto a = numbers<From, 8>(rng);
        const auto x = vector_as<Vector<From, 8>>(a);
        check_same(convert_each<To, 8>(a), convert_each<To, 8>(x));
        for (int i = 0; i < 8; ++i) CHECK(convert_each<To, 8>(a)[i] == static_cast<To>(a[i]));
    }
}

}  // namespace

TEST_CASE("loops compute what vectors do") {
    check_arithmetic<uint8_t, 32>();
    check_arithmetic<uint16_t, 16>();
    check_arithmetic<int16_t, 16>();
    check_arithmetic<uint32_t, 8>();
    check_arithmetic<int32_t, 8>();
    check_arithmetic<float, 8>();
}

TEST_CASE("loops convert as vectors do") {
    check_conversion<int32_t, uint8_t>();
    check_conversion<int32_t, int8_t>();
    check_conversion<uint32_t, uint16_t>();
    check_conversion<float, int32_t>();
    check_conversion<uint8_t, uint32_t>();
}

TEST_CASE("one number in all elements") {
    const auto v = splat_vector<Vector<int16_t, 16>>(int16_t{-3});
    const auto loop = splat_vector<LoopVector<int16_t, 16>>(int16_t{-3});
    check_same(loop, v);
    for (int i = 0; i < 16; ++i) CHECK(loop[i] == -3);
}
