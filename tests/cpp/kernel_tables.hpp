// The kernel tables that the tests can run, and rows of every format to run them on.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/common_form.hpp"
#include "rng.hpp"
#include "targets/kernels.hpp"
#include "targets/strip_kernels.hpp"

namespace bq::test {

// available_kernels(), and the emulated AVX-512 table where the build has one.
std::vector<const KernelTable*> runnable_kernels();
// And those of an instruction set as they are on a CPU without the extensions that replace some of its
// products.
std::vector<const KernelTable*> matmul_kernels();
// Of these the ones with products of a format, or an encoder, that no table before has: instruction sets
// share many. The reference's encoder does not count.
std::vector<const KernelTable*> product_kernels(FormatId id);
std::vector<const KernelTable*> encoder_kernels(FormatId id);

// The kernels of strips with the table of the same instruction set.
struct StripTable {
    const KernelTable* table;
    const StripKernels* strips;
};
std::vector<StripTable> strip_tables();

std::vector<FormatId> implemented_formats();

// The scalar reference decode.
void reference_decode(FormatId id, const uint8_t* row, float* out, int64_t k);

// `rows` rows of k elements: random integers, with scales and minima of an ordinary size.
std::vector<uint8_t> random_rows(FormatId id, int64_t rows, int64_t k, Rng& rng);
// The same with all other bytes equal; of a quantized format.
std::vector<uint8_t> rows_of_byte(FormatId id, int64_t rows, int64_t k, uint8_t byte, Rng& rng);
// Random bits, scales included: infinities, NaNs, subnormals.
std::vector<uint8_t> random_bytes(size_t count, Rng& rng);

// Bytes that end where a page without access begins (elsewhere, at the end of an allocation).
class GuardedBytes {
  public:
    explicit GuardedBytes(const std::vector<uint8_t>& bytes);
    ~GuardedBytes();
    GuardedBytes(const GuardedBytes&) = delete;
    GuardedBytes& operator=(const GuardedBytes&) = delete;
    const uint8_t* data() const { return data_; }
    uint8_t* data() { return data_; }

  private:
    void* mapping_ = nullptr;
    size_t length_ = 0;
    uint8_t* data_ = nullptr;
};

// Rows of up to 128 floats, of which the last one starts 2^31 floats from the first one or further; nothing
// between them can be accessed. (Elsewhere, one after the other.)
class FarRows {
  public:
    explicit FarRows(int64_t rows);
    ~FarRows();
    FarRows(const FarRows&) = delete;
    FarRows& operator=(const FarRows&) = delete;
    float* row(int64_t r) const { return data_ + r * stride; }

    int64_t stride;  // floats

  private:
    size_t length_ = 0;
    float* data_ = nullptr;
};

// Where something would have to start for `there` to be `elements` elements from it.
template <class T>
T* start_before(T* there, int64_t elements) {
    return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(there) -
                                static_cast<uintptr_t>(elements) * sizeof(T));
}

}  // namespace bq::test
