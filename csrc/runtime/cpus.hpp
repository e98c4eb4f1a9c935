// Which CPUs the threads of one job run on.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sched.h>
#endif

namespace bq {

// A worker that wakes up where another thread of its job runs would share that CPU until the system moves one
// of them, which takes it milliseconds, more than most products do: it moves itself.
class Cpus {
  public:
    static constexpr int kCpus = 1024;  // more are left where they are
    // Notes the CPU of the calling thread; false if it was noted before.
    bool take() {
#if defined(__linux__)
        const int cpu = sched_getcpu();
        if (cpu >= 0 && cpu < kCpus) return take(cpu);
#endif
        return true;
    }
    // Notes the CPU of the calling thread, after moving the thread to another one if it was noted before and
    // one that the thread may use was not. The CPUs that the thread may use stay what they were.
    void spread() {
#if defined(__linux__)
        if (take()) return;
        cpu_set_t allowed, free;
        if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
        CPU_ZERO(&free);
        for (int cpu = 0; cpu < kCpus; ++cpu)
            if (CPU_ISSET(cpu, &allowed) && !taken(cpu)) CPU_SET(cpu, &free);
        // Fails where nothing is free.
        if (sched_setaffinity(0, sizeof free, &free) != 0) return;
        take();
        sched_setaffinity(0, sizeof allowed, &allowed);
#endif
    }

    bool take(int cpu) { return (word(cpu).fetch_or(bit(cpu)) & bit(cpu)) == 0; }
    bool taken(int cpu) { return (word(cpu).load(std::memory_order_relaxed) & bit(cpu)) != 0; }

  private:
    std::atomic<uint64_t>& word(int cpu) { return taken_[static_cast<size_t>(cpu / 64)]; }
    static uint64_t bit(int cpu) { return uint64_t{1} << cpu % 64; }

    std::array<std::atomic<uint64_t>, kCpus / 64> taken_{};
};

}  // namespace bq
