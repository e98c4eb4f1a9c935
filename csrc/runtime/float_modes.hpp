// How a thread's float operations round, and whether they flush subnormal numbers: each thread has its own
// setting, and some libraries change it (torch.set_flush_denormal).
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace bq {

class FloatModes {
  public:
    // The calling thread's.
    static FloatModes now() {
        FloatModes modes;
#if defined(__x86_64__) || defined(_M_X64)
        modes.bits_ = _mm_getcsr();
#elif defined(__aarch64__) && !defined(_MSC_VER)
        __asm__ volatile("mrs %0, fpcr" : "=r"(modes.bits_));
#endif
        return modes;
    }
    // For the calling thread from here on.
    void set() const {
        if (now() == *this) return;
#if defined(__x86_64__) || defined(_M_X64)
        _mm_setcsr(static_cast<unsigned>(bits_));
#elif defined(__aarch64__) && !defined(_MSC_VER)
        __asm__ volatile("msr fpcr, %0" : : "r"(bits_));
#endif
    }

    // These, but that subnormal numbers count as zeros; these alone on other CPUs.
    FloatModes flushing() const {
        FloatModes modes = *this;
#if defined(__x86_64__) || defined(_M_X64)
        modes.bits_ |= 0x8040;
#elif defined(__aarch64__) && !defined(_MSC_VER)
        modes.bits_ |= uint64_t{1} << 24;
#endif
        return modes;
    }
    bool operator==(const FloatModes&) const = default;

  private:
    uint64_t bits_ = 0;
};

}  // namespace bq
