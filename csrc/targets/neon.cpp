// aarch64: decoding, activations and the transformer.
#include "simd/neon.hpp"
#include "targets/instantiate.hpp"
#include "targets/targets.hpp"

void bq::fill_neon(KernelTable& table) {
    fill_table<Neon>(table, "neon");
}
