// Any CPU of the architecture: no flags beyond the compiler's default.
#include "simd/scalar.hpp"
#include "targets/instantiate.hpp"
#include "targets/targets.hpp"

void bq::fill_baseline(KernelTable& table) {
    fill_table<Scalar>(table, "baseline");
}
