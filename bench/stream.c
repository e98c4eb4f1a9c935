// Plain vector stores, and stores and copies that bypass the cache, as fast as this machine's memory takes them: the
// yardstick of the benchmarks. Sizes are multiples of 64 bytes, pointers multiples of 64.
#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <emmintrin.h>

void plain_fill(char* to, size_t bytes) {
    const __m128i zero = _mm_setzero_si128();
    for (size_t i = 0; i < bytes; i += 64) {
        _mm_store_si128((__m128i*)(to + i), zero);
        _mm_store_si128((__m128i*)(to + i + 16), zero);
        _mm_store_si128((__m128i*)(to + i + 32), zero);
        _mm_store_si128((__m128i*)(to + i + 48), zero);
        __asm__ volatile("" : : : "memory");  // no memset in its place
    }
}

void stream_fill(char* to, size_t bytes) {
    const __m128i zero = _mm_setzero_si128();
    for (size_t i = 0; i < bytes; i += 64) {
        _mm_stream_si128((__m128i*)(to + i), zero);
        _mm_stream_si128((__m128i*)(to + i + 16), zero);
        _mm_stream_si128((__m128i*)(to + i + 32), zero);
        _mm_stream_si128((__m128i*)(to + i + 48), zero);
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
