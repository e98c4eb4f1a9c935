// The row encoders behind reference_encoder, one per format.
#pragma once

#include <cstdint>

namespace bq::encode {

// k floats to k / block blocks; see encode.hpp for the arguments.
void f32(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void f16(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void bf16(const float* x, uint8_t* out, int64_t k, const float* imatrix);

void q4_0(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void q4_1(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void q5_0(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void q5_1(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void q8_0(const float* x, uint8_t* out, int64_t k, const float* imatrix);

void q2_k(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void q3_k(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void q4_k(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void q5_k(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void q6_k(const float* x, uint8_t* out, int64_t k, const float* imatrix);

void iq1_s(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void iq1_m(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void iq2_xxs(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void iq2_xs(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void iq2_s(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void iq3_xxs(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void iq3_s(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void iq4_nl(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void iq4_xs(const float* x, uint8_t* out, int64_t k, const float* imatrix);

void tq1_0(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void tq2_0(const float* x, uint8_t* out, int64_t k, const float* imatrix);

void mxfp4(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void nvfp4(const float* x, uint8_t* out, int64_t k, const float* imatrix);

void q1_0(const float* x, uint8_t* out, int64_t k, const float* imatrix);
void q2_0(const float* x, uint8_t* out, int64_t k, const float* imatrix);

}  // namespace bq::encode
