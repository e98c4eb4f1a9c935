// Any CPU of the architecture: matrix products.
#include "simd/tile_scalar.hpp"
#include "targets/instantiate_matmul.hpp"
#include "targets/targets.hpp"

void bq::fill_baseline_matmul(KernelTable& table) {
    fill_matmuls<Scalar, TileScalar>(table);
}
