// aarch64 with the dot product instructions: decoding and encoding are NEON's.
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

void bq::fill_neon_dotprod(KernelTable& table) {
    table.isa = "neon_dotprod";
}
