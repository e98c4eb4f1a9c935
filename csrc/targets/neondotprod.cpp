// aarch64 with the dot product instructions: all but products with int8 activations is NEON's.
#include "targets/kernels.hpp"
#include "targets/targets.hpp"

void bq::fill_neon_dotprod(KernelTable& table) {
    table.isa = "neon_dotprod";
}
