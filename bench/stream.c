// Plain vector stores, stores and copies that bypass the cache, and loads, as fast as this machine's memory takes them:
// the yardstick of the benchmarks. Sizes are multiples of 64 bytes, pointers multiples of 64.
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

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

// Four streams, a line of each in turn.
__attribute__((target("avx2"))) static void read_lines_avx2(const char* from, size_t part) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (const char* end = from + part; from < end; from += 64) {
        const __m256i* const line[4] = {(const __m256i*)from, (const __m256i*)(from + part),
                                        (const __m256i*)(from + 2 * part), (const __m256i*)(from + 3 * part)};
        a = _mm256_xor_si256(a, _mm256_xor_si256(line[0][0], line[0][1]));
        b = _mm256_xor_si256(b, _mm256_xor_si256(line[1][0], line[1][1]));
        c = _mm256_xor_si256(c, _mm256_xor_si256(line[2][0], line[2][1]));
        d = _mm256_xor_si256(d, _mm256_xor_si256(line[3][0], line[3][1]));
    }
    __asm__ volatile("" ::"x"(a), "x"(b), "x"(c), "x"(d));
}
static void read_lines(const char* from, size_t part) {
    __m128i all = _mm_setzero_si128();
    for (const char* end = from + part; from < end; from += 64)
        for (int stream = 0; stream < 4; ++stream) {
            const __m128i* const line = (const __m128i*)(from + (size_t)stream * part);
            all = _mm_xor_si128(_mm_xor_si128(all, line[0]), _mm_xor_si128(line[1], line[2]));
            all = _mm_xor_si128(all, line[3]);
        }
    __asm__ volatile("" ::"x"(all));
}
static void read_part(const char* from, size_t bytes) {
    (__builtin_cpu_supports("avx2") ? read_lines_avx2 : read_lines)(from, bytes / 256 * 64);
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
static void read_part(const char* from, size_t bytes) {
    volatile char last = 0;
    for (size_t i = 0; i < bytes; i += 64) last = from[i];
    (void)last;
}
#endif

struct part {
    const char* from;
    size_t bytes;
};
static void* read_in_thread(void* given) {
    const struct part* part = given;
    read_part(part->from, part->bytes);
    return NULL;
}
// With up to 64 threads, each its own part.
void stream_read(const char* from, size_t bytes, int threads) {
    pthread_t thread[64];
    struct part part[64];
    threads = threads < 1 ? 1 : threads > 64 ? 64 : threads;
    const size_t each = bytes / 64 / (size_t)threads * 64;
    for (int t = 0; t < threads; ++t) part[t] = (struct part){from + (size_t)t * each, each};
    int started = 1;
    while (started < threads && !pthread_create(&thread[started], NULL, read_in_thread, &part[started])) ++started;
    read_part(part[0].from, part[0].bytes);
    for (int t = 1; t < started; ++t) pthread_join(thread[t], NULL);
    for (int t = started; t < threads; ++t) read_part(part[t].from, part[t].bytes);
}
