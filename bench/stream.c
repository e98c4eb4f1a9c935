// Plain vector stores, and stores and copies that bypass the cache, as fast as this machine's memory takes them: the
// yardstick of the benchmarks. Sizes are multiples of 64 bytes, pointers multiples of 64.
#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <emmintrin.h>

// Every line differs: some machines store lines of zeros, or of one value, faster than any data.
void plain_fill(char* to, size_t bytes) {
    const __m128i step = _mm_set_epi32(0x3c6ef372, 0x1b873593, 0x2545f491, 0x5bd1e995);
    __m128i data = step;
    for (size_t i = 0; i < bytes; i += 64) {
        data = _mm_add_epi32(data, step);
        _mm_store_si128((__m128i*)(to + i), data);
        _mm_store_si128((__m128i*)(to + i + 16), data);
        _mm_store_si128((__m128i*)(to + i + 32), data);
        _mm_store_si128((__m128i*)(to + i + 48), data);
    }
}

void stream_fill(char* to, size_t bytes) {
    const __m128i step = _mm_set_epi32(0x3c6ef372, 0x1b873593, 0x2545f491, 0x5bd1e995);
    __m128i data = step;
    for (size_t i = 0; i < bytes; i += 64) {
        data = _mm_add_epi32(data, step);
        _mm_stream_si128((__m128i*)(to + i), data);
        _mm_stream_si128((__m128i*)(to + i + 16), data);
        _mm_stream_si128((__m128i*)(to + i + 32), data);
        _mm_stream_si128((__m128i*)(to + i + 48), data);
    }
    _mm_sfence();
}

void stream_copy(char* to, const char* from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) {
        const __m128i a = _mm_load_si128((const __m128i*)(from + i));
        const __m128i b = _mm_load_si128((const __m128i*)(from + i + 16));
        const __m128i c = _mm_load_si128((const __m128i*)(from + i + 32));
        const __m128i d = _mm_load_si128((const __m128i*)(from + i + 48));
        _mm_stream_si128((__m128i*)(to + i), a);
        _mm_stream_si128((__m128i*)(to + i + 16), b);
        _mm_stream_si128((__m128i*)(to + i + 32), c);
        _mm_stream_si128((__m128i*)(to + i + 48), d);
    }
    _mm_sfence();
}
#else
void plain_fill(char* to, size_t bytes) {
    memset(to, 0, bytes);
}
void stream_fill(char* to, size_t bytes) {
    memset(to, 0, bytes);
}
void stream_copy(char* to, const char* from, size_t bytes) {
    memcpy(to, from, bytes);
}
#endif
