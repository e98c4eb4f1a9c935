#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

#include "runtime/cpus.hpp"
#include "runtime/float_modes.hpp"
#include "runtime/thread_pool.hpp"

using namespace bq;

TEST_CASE("ranges are disjoint, cover everything and respect the grain") {
    for (int64_t n : {0, 1, 7, 64, 1000, 1001})
        for (int64_t grain : {1, 3, 64, 5000})
            for (int threads : {0, 1, 2, 5}) {
                std::mutex mutex;
                std::vector<std::pair<int64_t, int64_t>> ranges;
                parallel_for(n, grain, threads, [&](int64_t begin, int64_t end) {
                    const std::lock_guard<std::mutex> lock(mutex);
                    ranges.emplace_back(begin, end);
                });
                std::sort(ranges.begin(), ranges.end());
                int64_t at = 0;
                for (auto [begin, end] : ranges) {
                    CHECK(begin == at);
                    CHECK(end > begin);
                    if (end != n) CHECK((end - begin) % grain == 0);
                    at = end;
                }
                CHECK(at == n);
            }
}

TEST_CASE("no more threads run than were asked for, and the caller is one of them") {
    std::mutex mutex;
    for (int threads : {1, 2, 3}) {
        std::set<std::thread::id> seen;
        for (int repeat = 0; repeat < 20; ++repeat) {
            std::set<std::thread::id> now;
            parallel_for(64, 1, threads, [&](int64_t, int64_t) {
                std::this_thread::sleep_for(std::chrono::microseconds(50));
                const std::lock_guard<std::mutex> lock(mutex);
                now.insert(std::this_thread::get_id());
            });
            CHECK(now.size() <= static_cast<size_t>(threads));
            seen.merge(now);
        }
        CHECK(seen.count(std::this_thread::get_id()) == 1);
        if (threads > 1) CHECK(seen.size() > 1);
    }
}

TEST_CASE("many small jobs, also with pauses in which the workers go to sleep") {
    std::vector<int> counts(100);
    for (int i = 0; i < 5000; ++i) {
        parallel_for(100, 1, 1 + i % 4, [&](int64_t begin, int64_t end) {
            for (int64_t j = begin; j < end; ++j) ++counts[j];
        });
        if (i % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    CHECK(std::all_of(counts.begin(), counts.end(), [](int c) { return c == 5000; }));
}

TEST_CASE("brief work leaves sleeping workers alone, until more of it follows") {
    std::mutex mutex;
    const auto threads_of = [&](Work work) {
        std::set<std::thread::id> seen;
        parallel_for(
            64, 1, 3,
            [&](int64_t, int64_t) {
                std::this_thread::sleep_for(std::chrono::microseconds(50));
                const std::lock_guard<std::mutex> lock(mutex);
                seen.insert(std::this_thread::get_id());
            },
            work);
        return seen.size();
    };
    // Other processes may keep the workers from falling asleep for once, or from joining.
    constexpr int kTries = 40;
    const auto asleep = [] { std::this_thread::sleep_for(std::chrono::milliseconds(10)); };
    int alone = 0;
    bool followed = false, awakened = false;
    for (int i = 0; i < kTries; ++i) {
        asleep();
        alone += threads_of(Work::brief) == 1;
    }
    CHECK(alone > kTries / 2);
    for (int i = 0; i < kTries && !followed; ++i) followed = threads_of(Work::brief) > 1;
    CHECK(followed);
    for (int i = 0; i < kTries && !awakened; ++i) {
        asleep();
        awakened = threads_of(Work::any) > 1;
    }
    CHECK(awakened);
}

#if defined(__linux__)
TEST_CASE("a thread moves to the CPU that is left, and may use the same ones afterwards") {
    cpu_set_t allowed, left;
    REQUIRE(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    const int count = std::min<int>(CPU_SETSIZE, kCpus);
    for (int last = 0; last < count; ++last) {
        if (!CPU_ISSET(last, &allowed)) continue;
        Cpus cpus;
        for (int cpu = 0; cpu < count; ++cpu)
            if (CPU_ISSET(cpu, &allowed) && cpu != last) CHECK(cpus.take(cpu));
        for (int repeat = 0; repeat < 2; ++repeat) {  // the second time no CPU is left
            cpus.spread();
            CHECK(cpus.taken(last));
            REQUIRE(sched_getaffinity(0, sizeof left, &left) == 0);
            CHECK(CPU_EQUAL(&left, &allowed));
        }
        CHECK_FALSE(cpus.take(last));
    }
}

TEST_CASE("a sleeper avoids one CPU at a time, if it may use another, and none when it is awake") {
    cpu_set_t allowed, now, one;
    REQUIRE(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    const int count = std::min<int>(CPU_SETSIZE, kCpus);
    Sleeper sleeper;
    sleeper.avoid(0);  // it is awake
    REQUIRE(sched_getaffinity(0, sizeof now, &now) == 0);
    CHECK(CPU_EQUAL(&now, &allowed));
    for (int repeat = 0; repeat < 2; ++repeat) {
        sleeper.fall_asleep();
        for (int cpu : {-1, kCpus}) sleeper.avoid(cpu);
        REQUIRE(sched_getaffinity(0, sizeof now, &now) == 0);
        CHECK(CPU_EQUAL(&now, &allowed));
        for (int cpu = 0; cpu < count; ++cpu) {
            if (!CPU_ISSET(cpu, &allowed)) continue;
            std::thread([&] { sleeper.avoid(cpu); }).join();
            REQUIRE(sched_getaffinity(0, sizeof now, &now) == 0);
            cpu_set_t expected = allowed;
            if (CPU_COUNT(&allowed) > 1) CPU_CLR(cpu, &expected);
            CHECK(CPU_EQUAL(&now, &expected));
        }
        sleeper.wake_up();
        REQUIRE(sched_getaffinity(0, sizeof now, &now) == 0);
        CHECK(CPU_EQUAL(&now, &allowed));
        // What somebody else chose while it slept stays: here the CPU that it avoided and no other.
        const int here = sched_getcpu();
        CPU_ZERO(&one);
        CPU_SET(here, &one);
        sleeper.fall_asleep();
        sleeper.avoid(here);
        REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
        for (int cpu = 0; cpu < count; ++cpu) sleeper.avoid(cpu);
        sleeper.wake_up();
        REQUIRE(sched_getaffinity(0, sizeof now, &now) == 0);
        CHECK(CPU_EQUAL(&now, &one));
        CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
    }
}

TEST_CASE("threads of a job may use the CPUs of its caller, however often they slept") {
    cpu_set_t allowed;
    REQUIRE(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    std::atomic<int> different{0};
    for (int repeat = 0; repeat < 20; ++repeat) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        parallel_for(64, 1, 3, [&](int64_t, int64_t) {
            std::this_thread::sleep_for(std::chrono::microseconds(50));
            cpu_set_t now;
            if (sched_getaffinity(0, sizeof now, &now) != 0 || !CPU_EQUAL(&now, &allowed)) ++different;
        });
    }
    CHECK(different == 0);
}

TEST_CASE("a thread that is alone on its CPU stays there") {
    cpu_set_t allowed, one;
    REQUIRE(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    const int here = sched_getcpu();
    CPU_ZERO(&one);
    CPU_SET(here, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    Cpus cpus;
    cpus.spread();
    CHECK(cpus.taken(here));
    for (int cpu = 0; cpu < kCpus; ++cpu)
        if (cpu != here) CHECK_FALSE(cpus.taken(cpu));
    CHECK(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
}
#endif

TEST_CASE("several threads may call at once") {
    std::vector<std::thread> callers;
    std::atomic<int64_t> total{0};
    for (int t = 0; t < 4; ++t)
        callers.emplace_back([&] {
            for (int i = 0; i < 500; ++i)
                parallel_for(64, 4, 3, [&](int64_t begin, int64_t end) { total += end - begin; });
        });
    for (std::thread& caller : callers) caller.join();
    CHECK(total == 4 * 500 * 64);
}

TEST_CASE("a call from inside a body runs inline") {
    std::atomic<int64_t> total{0};
    std::atomic<int> strangers{0};
    parallel_for(8, 1, 4, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const auto self = std::this_thread::get_id();
            parallel_for(10, 1, 4, [&](int64_t b, int64_t e) {
                strangers += std::this_thread::get_id() != self;
                total += e - b;
            });
        }
    });
    CHECK(total == 80);
    CHECK(strangers == 0);
}

TEST_CASE("what a body throws reaches the caller, when all threads have stopped") {
    const auto caller = std::this_thread::get_id();
    for (const bool on_caller : {false, true}) {  // who throws; on busy CPUs it may get no part of a job
        int jobs_that_threw = 0;
        std::set<std::thread::id> seen;
        for (int repeat = 0; repeat < 50; ++repeat) {
            std::atomic<int> running{0}, begun{0}, thrown{0};
            bool caught = false;
            try {
                parallel_for(1000, 1, 4, [&](int64_t, int64_t) {
                    ++running;
                    if (begun++ < 8) std::this_thread::sleep_for(std::chrono::microseconds(100));
                    --running;
                    if ((std::this_thread::get_id() == caller) != on_caller) return;
                    ++thrown;
                    throw std::bad_alloc();
                });
            } catch (const std::bad_alloc&) {
                caught = true;
            }
            CHECK(running == 0);
            CHECK(caught == (thrown > 0));
            jobs_that_threw += caught;
            // The threads work on, the caller's own with them.
            std::atomic<int64_t> sum{0};
            std::mutex mutex;
            parallel_for(64, 1, 4, [&](int64_t begin, int64_t end) {
                sum += end - begin;
                std::this_thread::sleep_for(std::chrono::microseconds(20));
                const std::lock_guard<std::mutex> lock(mutex);
                seen.insert(std::this_thread::get_id());
            });
            CHECK(sum == 64);
        }
        CHECK(jobs_that_threw > 0);
        CHECK(seen.size() >= 2);
        CHECK(seen.count(caller) == 1);
    }
}

TEST_CASE("workers round and flush as the caller does") {
    const FloatModes before = FloatModes::now();
    const float smallest = 0x1p-126f;
    const auto halves = [&] {  // what half of the smallest normal number is, on every thread
        std::atomic<int> zeros{0}, others{0};
        parallel_for(64, 1, 4, [&](int64_t begin, int64_t end) {
            std::this_thread::sleep_for(std::chrono::microseconds(20));
            volatile float number = smallest;
            number = number * 0.5f;
            (number == 0.0f ? zeros : others) += static_cast<int>(end - begin);
        });
        return std::pair(zeros.load(), others.load());
    };
    CHECK(halves() == std::pair(0, 64));
    if (const FloatModes flushing = before.flushing(); flushing != before) {
        flushing.set();
        const auto flushed = halves();
        before.set();
        CHECK(flushed == std::pair(64, 0));
    }
    CHECK(halves() == std::pair(0, 64));
}

TEST_CASE("the thread count can be set") {
    const int before = get_num_threads();
    CHECK(before >= 1);
    CHECK(hardware_threads() >= 1);
    set_num_threads(3);
    CHECK(get_num_threads() == 3);
    set_num_threads(0);
    CHECK(get_num_threads() == before);
}

#if !defined(_WIN32) && !defined(BQ_EMULATED)
TEST_CASE("a forked child has threads of its own") {
    std::atomic<int64_t> warm{0};
    parallel_for(100, 1, 3, [&](int64_t b, int64_t e) { warm += e - b; });
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(20);
        std::mutex mutex;
        std::set<std::thread::id> seen;
        std::atomic<int64_t> total{0};
        for (int i = 0; i < 50; ++i)
            parallel_for(32, 1, 3, [&](int64_t b, int64_t e) {
                total += e - b;
                std::this_thread::sleep_for(std::chrono::microseconds(100));
                const std::lock_guard<std::mutex> lock(mutex);
                seen.insert(std::this_thread::get_id());
            });
        _exit(total == 50 * 32 && seen.size() > 1 ? 0 : 1);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    parallel_for(100, 1, 3, [&](int64_t b, int64_t e) { warm += e - b; });
    CHECK(warm == 200);
}
#endif
