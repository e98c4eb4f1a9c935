// What this machine can do, for the percentages of the benchmarks: prints one JSON object. Compiled and run
// by peak.py.
//   vnni, maddubs   int8 products and sums in 10^9 operations a second, one thread (a multiplication and an
//                   addition each)
//   bf16            the same with bfloat16 (vdpbf16ps), if the CPU has AVX-512 BF16
//   fma             float32 operations, one thread
//   read            bytes read in a second by all given threads from buffers larger than the caches
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Runs body for about `limit` seconds; the best rate of `work` units a call.
template <class Body>
static double rate(double work, double limit, Body body) {
    double best = 0;
    const auto begin = Clock::now();
    do {
        const auto start = Clock::now();
        body();
        const double r = work / seconds_since(start);
        if (r > best) best = r;
    } while (seconds_since(begin) < limit);
    return best;
}

constexpr int kLoops = 200000;

// Ten independent chains hide the latency.
__attribute__((target("avx512f,avx512vnni"))) static void vnni() {
    __m512i sum[10], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    for (auto& s : sum) s = _mm512_setzero_si512();
    for (int i = 0; i < kLoops; ++i) {
        _Pragma("GCC unroll 10") for (auto& s : sum) s = _mm512_dpbusd_epi32(s, a, b);
        __asm__ volatile("" : "+v"(a));
    }
    for (auto& s : sum) __asm__ volatile("" : "+v"(s));
}
__attribute__((target("avx512f,avx512bf16"))) static void bf16() {
    __m512 sum[10];
    __m512i ones = _mm512_set1_epi32(0x3f803f80);
    __m512bh a, b;
    memcpy(&a, &ones, sizeof a);
    memcpy(&b, &ones, sizeof b);
    for (auto& s : sum) s = _mm512_setzero_ps();
    for (int i = 0; i < kLoops; ++i) {
        _Pragma("GCC unroll 10") for (auto& s : sum) s = _mm512_dpbf16_ps(s, a, b);
        __asm__ volatile("" : "+v"(a));
    }
    for (auto& s : sum) __asm__ volatile("" : "+v"(s));
}
__attribute__((target("avx2"))) static void maddubs() {
    __m256i sum[8], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
    for (auto& s : sum) s = _mm256_setzero_si256();
    for (int i = 0; i < kLoops; ++i) {
        _Pragma("GCC unroll 8") for (auto& s : sum) {
            __asm__ volatile("" : "+x"(a));
            s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
        }
    }
    for (auto& s : sum) __asm__ volatile("" : "+x"(s));
}
__attribute__((target("avx2,fma"))) static void fma8() {
    __m256 sum[10], a = _mm256_set1_ps(1e-3f), b = _mm256_set1_ps(0.5f);
    for (auto& s : sum) s = _mm256_setzero_ps();
    for (int i = 0; i < kLoops; ++i) {
        _Pragma("GCC unroll 10") for (auto& s : sum) s = _mm256_fmadd_ps(a, b, s);
        __asm__ volatile("" : "+x"(a));
    }
    for (auto& s : sum) __asm__ volatile("" : "+x"(s));
}

// Four streams through huge pages where the system gives them.
__attribute__((target("avx2"))) static void read_all(const char* p, size_t bytes) {
    const size_t part = bytes / 4;
    __m256i x[4] = {};
    for (size_t i = 0; i < part; i += 64)
        for (int s = 0; s < 4; ++s) {
            const char* q = p + s * part + i;
            x[s] = _mm256_xor_si256(x[s], _mm256_load_si256(reinterpret_cast<const __m256i*>(q)));
            x[s] = _mm256_xor_si256(x[s], _mm256_load_si256(reinterpret_cast<const __m256i*>(q + 32)));
        }
    for (auto& v : x) __asm__ volatile("" : "+x"(v));
}

static double read_rate(int threads, double limit) {
    const size_t bytes = size_t{256} << 20;
    std::vector<char*> buffers;
    for (int t = 0; t < threads; ++t) {
        void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) exit(1);
        madvise(p, bytes, MADV_HUGEPAGE);
        memset(p, 1, bytes);
        buffers.push_back(static_cast<char*>(p));
    }
    const double best = rate(static_cast<double>(bytes) * threads, limit, [&] {
        std::vector<std::thread> workers;
        for (int t = 1; t < threads; ++t) workers.emplace_back([&, t] { read_all(buffers[t], bytes); });
        read_all(buffers[0], bytes);
        for (auto& w : workers) w.join();
    });
    for (char* p : buffers) munmap(p, bytes);
    return best;
}

int main(int argc, char** argv) {
    const double limit = argc > 1 ? atof(argv[1]) : 0.2;
    printf("{");
    if (__builtin_cpu_supports("avx512vnni"))
        printf("\"vnni\": %.1f, ", rate(10.0 * 128 * kLoops, limit, vnni) / 1e9);
    if (__builtin_cpu_supports("avx512bf16"))
        printf("\"bf16\": %.1f, ", rate(10.0 * 64 * kLoops, limit, bf16) / 1e9);
    if (__builtin_cpu_supports("avx2")) {
        printf("\"maddubs\": %.1f, ", rate(8.0 * 64 * kLoops, limit, maddubs) / 1e9);
        printf("\"fma\": %.1f, ", rate(10.0 * 16 * kLoops, limit, fma8) / 1e9);
    }
    const int most = argc > 2 ? atoi(argv[2]) : 1;
    printf("\"read\": {");
    printf("\"%d\": %.1f", most, read_rate(most, 2 * limit) / 1e9);
    printf("}}\n");
}
