// Encoders of the IQ3 formats: see grid_search.hpp.
#include "encode/grid_search.hpp"
#include "encode/row_encoders.hpp"

namespace bq::encode {

void iq3_xxs(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    search::encode_grid_row<FormatIQ3_XXS>(x, out, k, imatrix);
}

void iq3_s(const float* x, uint8_t* out, int64_t k, const float* imatrix) {
    search::encode_grid_row<FormatIQ3_S>(x, out, k, imatrix);
}

}  // namespace bq::encode
