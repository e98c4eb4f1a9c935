// The one owner of threads. Work is split by rows, whose results depend neither on the part nor on the thread
// that they fall to.
#pragma once

#include <cstdint>
#include <type_traits>

namespace bq {

int hardware_threads();           // CPUs this process may use
int get_num_threads();            // BLOCKQUANT_NUM_THREADS, else hardware_threads()
void set_num_threads(int count);  // >= 1; 0: back to that
// nullptr, or what is wrong with BLOCKQUANT_NUM_THREADS (which is then ignored), until set_num_threads.
const char* num_threads_error();

// Work of less than some 45 microseconds on one thread is brief: workers that sleep take as long to join it.
enum class Work { brief, any };

// Calls body(context, begin, end) on disjoint ranges that cover [0, n), each but the last a multiple of
// `grain` long, on at most `threads` threads (0: get_num_threads()) of which the caller is one. Returns when
// all are done. May be called from several threads at once and after fork; a call from inside a body that
// runs on several threads runs inline. What a body throws, the caller throws when all threads have stopped;
// some ranges may then be left undone. Workers round floats and treat subnormal ones as the caller does.
// Those that sleep are awakened for brief work only when it follows other brief work at once.
void parallel_ranges(int64_t n, int64_t grain, int threads, void (*body)(void*, int64_t, int64_t),
                     void* context, Work work);

template <class Body>
void parallel_for(int64_t n, int64_t grain, int threads, Body&& body, Work work = Work::any) {
    using Plain = std::remove_reference_t<Body>;
    parallel_ranges(
        n, grain, threads,
        [](void* context, int64_t begin, int64_t end) { (*static_cast<Plain*>(context))(begin, end); },
        const_cast<void*>(static_cast<const void*>(&body)), work);
}

}  // namespace bq
