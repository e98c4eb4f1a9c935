#include "runtime/thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "runtime/cpus.hpp"
#include "runtime/float_modes.hpp"

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace bq {
namespace {

constexpr int kMaxThreads = 1024;
// A worker that finds nothing to do looks this often before it sleeps, which takes about that long: more than
// the gap between two matmuls of a token.
constexpr int kSpins = 2000;
constexpr std::chrono::microseconds kAwake{20};
// Parts of the work for each thread: a thread that the system delays leaves its share to the others.
constexpr int kPartsPerThread = 4;

void relax() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__) && !defined(_MSC_VER)
    __asm__ volatile("yield");
#endif
}

thread_local bool inside_body = false;

struct Job {
    void (*body)(void*, int64_t, int64_t);
    void* context;
    int64_t n, grain, grains, parts;  // parts of about equal numbers of grains
    int helpers;                      // workers that may take part
    Work work;
    const FloatModes modes = FloatModes::now();  // the caller's
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error{};  // of the first body that threw
    Cpus cpus;

    void run() {
        inside_body = true;
        try {
            for (;;) {
                const int64_t part = next.fetch_add(1, std::memory_order_relaxed);
                if (part >= parts) break;
                body(context, start_of(part), part + 1 < parts ? start_of(part + 1) : n);
            }
        } catch (...) {
            if (!failed.exchange(true)) error = std::current_exception();
            next.store(parts, std::memory_order_relaxed);  // what nobody has begun is left undone
        }
        inside_body = false;
    }
    // grains * part might overflow.
    int64_t start_of(int64_t part) const {
        return (grains / parts * part + grains % parts * part / parts) * grain;
    }
};

// Threads are started on demand and live as long as the process. A pool is never destroyed: its threads sleep
// through the interpreter's exit, and a forked child, which has none of them, leaves the old pool alone.
class Pool {
  public:
    // Runs the job with up to job.helpers workers; false if another thread is using the pool.
    bool try_run(Job& job) {
        std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
        if (!owner) return false;
        // Awakening a worker takes the caller some 8 microseconds, and the worker five times as long. It pays
        // for brief work if more of it comes while the worker is awake.
        const bool leaves = job.work == Work::brief && (workers_ < job.helpers || sleepers_.load() > 0) &&
                            Clock::now() - left_asleep_ > kAwake;
        if (!leaves) start_workers(job.helpers);
        const int cpu = current_cpu();
        caller_cpu_.store(cpu, std::memory_order_relaxed);
        job.cpus.take(cpu);
        job_ = &job;
        open_.store(++generation_);
        if (!leaves && sleepers_.load() > 0) {
            const std::lock_guard<std::mutex> lock(mutex_);
            const size_t helpers = std::min(asleep_.size(), static_cast<size_t>(job.helpers));
            for (Sleeper* sleeper : std::span(asleep_).first(helpers))
                if (sleeper != nullptr) sleeper->avoid(cpu);
            wake_.notify_all();
        }
        job.run();
        open_.store(0);
        // A worker counts itself before it looks at open_, so that none reads the job from here on.
        for (int spins = 0; active_.load() != 0; ++spins) {
            if (spins < kSpins)
                relax();
            else
                std::this_thread::yield();
        }
        if (leaves) left_asleep_ = Clock::now();
        return true;
    }

  private:
    using Clock = std::chrono::steady_clock;

    void start_workers(int wanted) {
        while (workers_ < wanted) {
            try {
                {
                    const std::lock_guard<std::mutex> lock(mutex_);
                    asleep_.resize(static_cast<size_t>(workers_) + 1);
                }
                std::thread([this, index = workers_] { work(index); }).detach();
            } catch (const std::exception&) {
                return;  // no more threads or memory to be had: the caller and the others do the work
            }
            ++workers_;
        }
    }

    void work(int index) {
        const size_t place = static_cast<size_t>(index);
        Sleeper self;
        uint64_t seen = 0;
        for (;;) {
            uint64_t generation = open_.load();
            for (int spins = 0; (generation == 0 || generation == seen) && spins < kSpins; ++spins) {
                relax();
                generation = open_.load();
            }
            if (generation == 0 || generation == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                asleep_[place] = &self;
                self.fall_asleep();
                self.avoid(caller_cpu_.load(std::memory_order_relaxed));
                sleepers_.fetch_add(1);
                wake_.wait(lock, [&] {
                    generation = open_.load();
                    return generation != 0 && generation != seen;
                });
                sleepers_.fetch_sub(1);
                asleep_[place] = nullptr;
                self.wake_up();
            }
            active_.fetch_add(1);
            const uint64_t now = open_.load();
            if (now != 0 && now != seen) {
                seen = now;
                if (index < job_->helpers) {
                    job_->cpus.spread();
                    job_->modes.set();
                    job_->run();
                }
            }
            active_.fetch_sub(1);
        }
    }

    std::mutex owner_;  // held by the thread whose job runs
    int workers_ = 0;
    Job* job_ = nullptr;
    uint64_t generation_ = 0;
    Clock::time_point left_asleep_{};  // end of the last job that left workers asleep
    std::atomic<uint64_t> open_{0};    // generation of the job that workers may join, or 0
    std::atomic<int> active_{0};       // workers that may be looking at the job
    std::atomic<int> caller_cpu_{-1};  // where the last job was begun
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<int> sleepers_{0};
    std::vector<Sleeper*> asleep_;  // by worker, nullptr if it is awake; under mutex_
};

std::atomic<Pool*> current_pool{nullptr};
#if !defined(_WIN32)
// The pools of ancestors: kept reachable, never touched.
std::atomic<Pool*> abandoned_pool{nullptr};

void after_fork_in_child() {
    abandoned_pool.store(current_pool.exchange(nullptr));
    inside_body = false;
}
#endif

Pool& pool() {
    Pool* p = current_pool.load();
    if (p == nullptr) {
#if !defined(_WIN32)
        static const int registered = pthread_atfork(nullptr, nullptr, after_fork_in_child);
        static_cast<void>(registered);
#endif
        Pool* created = new Pool;
        if (current_pool.compare_exchange_strong(p, created)) return *created;
        delete created;
    }
    return *p;
}

struct ThreadSetting {
    int count;
    std::string error;
};

ThreadSetting initial_setting() {
    const char* text = std::getenv("BLOCKQUANT_NUM_THREADS");
    if (text == nullptr || *text == '\0') return {hardware_threads(), ""};
    char* end = nullptr;
    errno = 0;
    const long value = std::strtol(text, &end, 10);
    if (*end != '\0' || errno != 0 || value < 1)
        return {hardware_threads(),
                std::string("BLOCKQUANT_NUM_THREADS is \"") + text +
                    "\"; expected a whole number of 1 or more, or leave it unset to use every CPU"};
    return {static_cast<int>(std::min<long>(value, kMaxThreads)), ""};
}

const ThreadSetting& environment_setting() {
    static const ThreadSetting setting = initial_setting();
    return setting;
}

std::atomic<int> chosen_threads{0};  // 0: not set by a call

}  // namespace

int hardware_threads() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int get_num_threads() {
    const int chosen = chosen_threads.load(std::memory_order_relaxed);
    return chosen > 0 ? chosen : environment_setting().count;
}

void set_num_threads(int count) {
    chosen_threads.store(std::clamp(count, 0, kMaxThreads), std::memory_order_relaxed);
}

const char* num_threads_error() {
    const std::string& error = environment_setting().error;
    return error.empty() || chosen_threads.load(std::memory_order_relaxed) > 0 ? nullptr : error.c_str();
}

void parallel_ranges(int64_t n, int64_t grain, int threads, void (*body)(void*, int64_t, int64_t),
                     void* context, Work work) {
    if (n <= 0) return;
    grain = std::max<int64_t>(grain, 1);
    const int64_t grains = (n - 1) / grain + 1;
    const int64_t wanted = threads > 0 ? std::min(threads, kMaxThreads) : get_num_threads();
    const int64_t count = std::min(wanted, grains);
    if (count > 1 && !inside_body) {
        Job job;
        job.body = body;
        job.context = context;
        job.n = n;
        job.grain = grain;
        job.grains = grains;
        job.parts = std::min(grains, count * kPartsPerThread);
        job.helpers = static_cast<int>(count - 1);
        job.work = work;
        if (pool().try_run(job)) {
            if (job.error) std::rethrow_exception(job.error);
            return;
        }
    }
    // One thread, a call from inside a body, or another caller has the workers.
    body(context, 0, n);
}

}  // namespace bq
