// aarch64: compiled twice, plain and, with BQ_NEON_DOTPROD, for CPUs that have the dot product instructions.
#include "simd/neon.hpp"
#include "targets/instantiate.hpp"
#include "targets/targets.hpp"

#if defined(BQ_NEON_DOTPROD)
void bq::fill_neon_dotprod(KernelTable& table) {
    fill_table<Neon>(table, "neon_dotprod");
}
#else
void bq::fill_neon(KernelTable& table) {
    fill_table<Neon>(table, "neon");
}
#endif
