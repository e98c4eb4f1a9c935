// Which CPUs the threads of one job run on.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bq {

constexpr int kCpus = 1024;  // threads are left where they are on CPUs beyond these

constexpr bool told_apart(int cpu) {
    return cpu >= 0 && cpu < kCpus;
}

// A thread that sleeps until another one needs it at the same time. The system likes to wake it up on the CPU
// of the other one, where it waits in the queue until it is moved: for milliseconds, more than most products
// take. While it sleeps, that CPU is none of its own.
class Sleeper {
  public:
    // By the thread itself, before and after it sleeps.
    void fall_asleep() {
#if defined(__linux__)
        if (thread_ == 0) thread_ = static_cast<pid_t>(syscall(SYS_gettid));
        asleep_ = sched_getaffinity(0, sizeof allowed_, &allowed_) == 0;
        current_ = allowed_;
        avoided_ = -1;
#endif
    }
    void wake_up() {
#if defined(__linux__)
        if (asleep_ && avoided_ >= 0) set(allowed_);
        asleep_ = false;
#endif
    }
    // By any thread, in between: it will not wake up on `cpu`, if there is another that it may use.
    void avoid(int cpu) {
#if defined(__linux__)
        if (!asleep_ || cpu == avoided_ || !told_apart(cpu)) return;
        cpu_set_t others = allowed_;
        CPU_CLR(cpu, &others);
        if (set(others)) avoided_ = cpu;
#else
        static_cast<void>(cpu);
#endif
    }

  private:
#if defined(__linux__)
    // Fails for an empty set, and where somebody else has changed it since.
    bool set(const cpu_set_t& cpus) {
        cpu_set_t now;
        if (sched_getaffinity(thread_, sizeof now, &now) != 0 || !CPU_EQUAL(&now, &current_)) return false;
        if (sched_setaffinity(thread_, sizeof cpus, &cpus) != 0) return false;
        current_ = cpus;
        return true;
    }

    pid_t thread_ = 0;
    bool asleep_ = false;
    int avoided_ = -1;
    cpu_set_t allowed_, current_;
#endif
};

// The CPU of the calling thread, -1 if that is not known.
inline int current_cpu() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

// A worker that runs where another thread of its job does moves itself, as the system would do in
// milliseconds.
class Cpus {
  public:
    // Notes the CPU of the calling thread, after moving the thread to another one if it was noted before and
    // one that the thread may use was not. The CPUs that the thread may use stay what they were.
    void spread() {
#if defined(__linux__)
        if (take(current_cpu())) return;
        cpu_set_t allowed, free;
        if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
        CPU_ZERO(&free);
        for (int cpu = 0; cpu < kCpus; ++cpu)
            if (CPU_ISSET(cpu, &allowed) && !taken(cpu)) CPU_SET(cpu, &free);
        // Fails where nothing is free.
        if (sched_setaffinity(0, sizeof free, &free) != 0) return;
        take(current_cpu());
        sched_setaffinity(0, sizeof allowed, &allowed);
#endif
    }

    // Notes a CPU, where CPUs are told apart; false if it was noted before.
    bool take(int cpu) { return !told_apart(cpu) || (word(cpu).fetch_or(bit(cpu)) & bit(cpu)) == 0; }
    bool taken(int cpu) { return (word(cpu).load(std::memory_order_relaxed) & bit(cpu)) != 0; }

  private:
    std::atomic<uint64_t>& word(int cpu) { return taken_[static_cast<size_t>(cpu / 64)]; }
    static uint64_t bit(int cpu) { return uint64_t{1} << cpu % 64; }

    std::array<std::atomic<uint64_t>, kCpus / 64> taken_{};
};

}  // namespace bq
