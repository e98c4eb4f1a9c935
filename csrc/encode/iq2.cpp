// Encoders of the IQ2 formats: see grid_search.hpp.
#include "encode/grid_search.hpp"
#include "encode/row_encoders.hpp"

namespace bq::encode {

void iq2_xxs(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    search::encode_grid_row<FormatIQ2_XXS>(x, out, k, imatrix);
}

void iq2_xs(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    search::encode_grid_row<FormatIQ2_XS>(x, out, k, imatrix);
}

void iq2_s(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    search::encode_grid_row<FormatIQ2_S>(x, out, k, imatrix);
}

}  // namespace bq::encode
