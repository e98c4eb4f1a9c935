// Letting other Python threads run while the core works.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace bq {

// Gives the interpreter's lock back while it lives. A thread that asks for the lock while the interpreter is
// going away (a daemon thread) gets it no more. CPython before 3.14 then ends it, with glibc by unwinding its
// stack: that may neither leave a destructor nor run those of Python objects without the lock, so the thread
// stops here for what is left of the process, as CPython 3.14 does.
class Unlocked {
  public:
    Unlocked() : state_(PyEval_SaveThread()) {}
    Unlocked(const Unlocked&) = delete;
    Unlocked& operator=(const Unlocked&) = delete;
    ~Unlocked() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {  // the unwinding; it may be caught as long as the handler is never left
            for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
        }
    }

  private:
    PyThreadState* state_;
};

}  // namespace bq
