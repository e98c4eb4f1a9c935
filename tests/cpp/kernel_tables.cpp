#include "kernel_tables.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

#if !defined(_WIN32)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "encode/encode.hpp"
#include "runtime/cpu_features.hpp"
#include "targets/targets.hpp"

#if defined(BQ_EMULATES_AVX_VNNI)
namespace bq {
void fill_avx_vnni_matmul_emulated(KernelTable& table);
void fill_avx_vnni_strips_emulated(StripKernels& kernels);
}  // namespace bq
#endif
#if defined(BQ_SIMDE_AVX512)
namespace bq {
void fill_avx512_emulated(KernelTable& table);
void fill_avx512_matmul_emulated(KernelTable& table);
void fill_avx512_encode_emulated(KernelTable& table);
void fill_avx512_strips_emulated(StripKernels& kernels);
void fill_avx512_bf16_emulated(KernelTable& table);
void fill_avx512_bf16_matmul_emulated(KernelTable& table);
void fill_vbmi_matmul_emulated(KernelTable& table);
void fill_vbmi_strips_emulated(StripKernels& kernels);
}  // namespace bq
#endif

namespace bq::test {
namespace {

[[maybe_unused]] bool has_table(const char* isa) {
    for (const KernelTable* table : available_kernels())
        if (std::strcmp(table->isa, isa) == 0) return true;
    return false;
}

#if defined(BQ_EMULATES_AVX_VNNI)
// nullptr where there is no AVX2 to emulate it with.
const KernelTable* emulated_avx_vnni() {
    static const KernelTable table = [] {
        KernelTable made;
        fill_avx2(made);
        fill_avx2_matmul(made);
        fill_avx_vnni_matmul_emulated(made);
        made.isa = "avx_vnni, emulated";
        return made;
    }();
    return has_table("avx2") ? &table : nullptr;
}
#endif

// The tables that are not the same as one before.
template <class Same>
std::vector<const KernelTable*> different(const std::vector<const KernelTable*>& tables, Same&& same) {
    std::vector<const KernelTable*> kept;
    for (const KernelTable* table : tables)
        if (std::none_of(kept.begin(), kept.end(), [&](const KernelTable* k) { return same(k, table); }))
            kept.push_back(table);
    return kept;
}

}  // namespace

std::vector<const KernelTable*> runnable_kernels() {
    std::vector<const KernelTable*> tables(available_kernels().begin(), available_kernels().end());
#if defined(BQ_SIMDE_AVX512)
    const CpuFeatures& cpu = cpu_features();  // the emulation is built from AVX2
    if (cpu.avx2 && cpu.fma && cpu.f16c) {
        static const KernelTable emulated = [] {
            KernelTable table;
            fill_avx512_emulated(table);
            fill_avx512_matmul_emulated(table);
            for (const FormatInfo& f : all_formats())
                table.formats[static_cast<int>(f.id)].encode = reference_encoder(f.id);
            fill_avx512_encode_emulated(table);
            return table;
        }();
        static const KernelTable with_extensions = [] {
            KernelTable table = emulated;
            fill_avx512_bf16_emulated(table);
            fill_avx512_bf16_matmul_emulated(table);
            fill_vbmi_matmul_emulated(table);
            return table;
        }();
        tables.insert(tables.end(), {&emulated, &with_extensions});
    }
#endif
    return tables;
}

std::vector<const KernelTable*> matmul_kernels() {
    std::vector<const KernelTable*> tables = runnable_kernels();
#if defined(BQ_EMULATES_AVX_VNNI)
    if (const KernelTable* emulated = emulated_avx_vnni()) tables.push_back(emulated);
#endif
#if defined(BQ_HAVE_AVX512)
    if (has_table("avx512")) {  // filling a table runs code of the set
        static const KernelTable plain = [] {
            KernelTable table;
            fill_avx512(table);
            fill_avx512_matmul(table);
            table.isa = "avx512 without extensions";
            return table;
        }();
        tables.push_back(&plain);
    }
#elif defined(BQ_HAVE_I8MM)
    if (has_table("neon_dotprod")) {  // filling a table runs code of the set
        static const KernelTable plain = [] {
            KernelTable table;
            fill_neon(table);
            fill_neon_matmul(table);
            fill_neon_dotprod_matmul(table);
            table.isa = "neon_dotprod without extensions";
            return table;
        }();
        tables.push_back(&plain);
    }
#endif
    return tables;
}

std::vector<const KernelTable*> product_kernels(FormatId id) {
    const auto same = [id](const KernelTable* a, const KernelTable* b) {
        const FormatKernels &f = (*a)[id], &g = (*b)[id];
        return f.matmul_i8 == g.matmul_i8 && f.matmul_panels == g.matmul_panels &&
               f.matmul_f32 == g.matmul_f32 && f.matmul_float_panels == g.matmul_float_panels &&
               f.matmul_bf16 == g.matmul_bf16 && f.matmul_bf16_panels == g.matmul_bf16_panels;
    };
    return different(matmul_kernels(), same);
}

std::vector<const KernelTable*> encoder_kernels(FormatId id) {
    std::vector<const KernelTable*> tables = runnable_kernels();
    std::erase_if(tables, [id](const KernelTable* t) { return (*t)[id].encode == reference_encoder(id); });
    return different(tables, [id](const KernelTable* a, const KernelTable* b) {
        return (*a)[id].encode == (*b)[id].encode && (*a)[id].encode_if_finite == (*b)[id].encode_if_finite;
    });
}

std::vector<StripTable> strip_tables() {
    std::vector<StripTable> tables;
    for (const KernelTable* table : available_kernels()) tables.push_back({table, &strip_kernels(*table)});
#if defined(BQ_EMULATES_AVX_VNNI)
    static const StripKernels avx_vnni = [] {
        StripKernels kernels;
        fill_avx_vnni_strips_emulated(kernels);
        return kernels;
    }();
    if (const KernelTable* table = emulated_avx_vnni()) tables.push_back({table, &avx_vnni});
#endif
#if defined(BQ_SIMDE_AVX512)
    static const StripKernels emulated = [] {
        StripKernels kernels;
        fill_avx512_strips_emulated(kernels);
        return kernels;
    }();
    const size_t real = available_kernels().size();
    const std::vector<const KernelTable*> all = runnable_kernels();  // the emulated ones last
    if (all.size() > real) {
        tables.push_back({all[real], &emulated});
#if defined(BQ_SIMDE_VBMI_STRIPS)
        static const StripKernels with_vbmi = [] {
            StripKernels kernels = emulated;
            fill_vbmi_strips_emulated(kernels);
            return kernels;
        }();
        tables.push_back({all[real + 1], &with_vbmi});
#endif
    }
#endif
    return tables;
}

std::vector<FormatId> implemented_formats() {
    std::vector<FormatId> ids;
    for (const FormatInfo& f : all_formats())
        if (f.implemented) ids.push_back(f.id);
    return ids;
}

void reference_decode(FormatId id, const uint8_t* row, float* out, int64_t k) {
    using enum FormatId;
    switch (id) {
        case F32:
            return decode_row<F32>(row, out, k);
        case F16:
            return decode_row<F16>(row, out, k);
        case BF16:
            return decode_row<BF16>(row, out, k);
        case Q4_0:
            return decode_row<Q4_0>(row, out, k);
        case Q4_1:
            return decode_row<Q4_1>(row, out, k);
        case Q5_0:
            return decode_row<Q5_0>(row, out, k);
        case Q5_1:
            return decode_row<Q5_1>(row, out, k);
        case Q8_0:
            return decode_row<Q8_0>(row, out, k);
        case Q2_K:
            return decode_row<Q2_K>(row, out, k);
        case Q3_K:
            return decode_row<Q3_K>(row, out, k);
        case Q4_K:
            return decode_row<Q4_K>(row, out, k);
        case Q5_K:
            return decode_row<Q5_K>(row, out, k);
        case Q6_K:
            return decode_row<Q6_K>(row, out, k);
        case IQ1_S:
            return decode_row<IQ1_S>(row, out, k);
        case IQ1_M:
            return decode_row<IQ1_M>(row, out, k);
        case IQ2_XXS:
            return decode_row<IQ2_XXS>(row, out, k);
        case IQ2_XS:
            return decode_row<IQ2_XS>(row, out, k);
        case IQ2_S:
            return decode_row<IQ2_S>(row, out, k);
        case IQ3_XXS:
            return decode_row<IQ3_XXS>(row, out, k);
        case IQ3_S:
            return decode_row<IQ3_S>(row, out, k);
        case IQ4_NL:
            return decode_row<IQ4_NL>(row, out, k);
        case IQ4_XS:
            return decode_row<IQ4_XS>(row, out, k);
        case TQ1_0:
            return decode_row<TQ1_0>(row, out, k);
        case TQ2_0:
            return decode_row<TQ2_0>(row, out, k);
        case MXFP4:
            return decode_row<MXFP4>(row, out, k);
        case NVFP4:
            return decode_row<NVFP4>(row, out, k);
        case Q1_0:
            return decode_row<Q1_0>(row, out, k);
        case Q2_0:
            return decode_row<Q2_0>(row, out, k);
        default:
            break;
    }
    throw "a format without a reference decode";
}

namespace {

void put_f16(uint8_t* block, size_t offset, float value) {
    const uint16_t h = f32_to_f16(value);
    std::memcpy(block + offset, &h, 2);
}

// Overwrites the floating point scales of a block with some of about 0.01.
void set_scales(FormatId id, uint8_t* block, Rng& rng) {
    using enum FormatId;
    const auto put = [&](size_t offset) { put_f16(block, offset, 0.01f * rng.uniform()); };
    switch (id) {
        case Q4_0:
        case Q5_0:
        case Q8_0:
            return put(0);
        case Q4_1:
        case Q5_1:
            return put(0), put(2);
        case Q2_K:
            return put(offsetof(BlockQ2_K, d)), put(offsetof(BlockQ2_K, dmin));
        case Q3_K:
            return put(offsetof(BlockQ3_K, d));
        case Q4_K:
        case Q5_K:
            return put(0), put(2);
        case Q6_K:
            return put(offsetof(BlockQ6_K, d));
        case IQ1_S:
        case IQ2_XXS:
        case IQ2_XS:
        case IQ2_S:
        case IQ3_XXS:
        case IQ3_S:
        case IQ4_NL:
        case IQ4_XS:
        case Q1_0:
        case Q2_0:
            return put(0);
        case IQ1_M: {  // in the top nibbles of four words
            uint16_t words[4];
            std::memcpy(words, block + offsetof(BlockIQ1_M, scales), 8);
            const uint16_t d = f32_to_f16(0.01f * rng.uniform());
            for (int i = 0; i < 4; ++i)
                words[i] = static_cast<uint16_t>((words[i] & 0xfff) | (d >> 4 * i & 15) << 12);
            std::memcpy(block + offsetof(BlockIQ1_M, scales), words, 8);
            return;
        }
        case TQ1_0:
            return put(offsetof(BlockTQ1_0, d));
        case TQ2_0:
            return put(offsetof(BlockTQ2_0, d));
        case MXFP4:  // 2^-12 to 2^-5
            block[offsetof(BlockMXFP4, e)] = static_cast<uint8_t>(115 + rng.next() % 8);
            return;
        case NVFP4:  // any of the subnormals and small numbers
            for (size_t i = 0; i < 4; ++i) block[i] = static_cast<uint8_t>(rng.next() % 32);
            return;
        default:
            throw "a format whose scales the tests do not know";
    }
}

}  // namespace

std::vector<uint8_t> random_bytes(size_t count, Rng& rng) {
    std::vector<uint8_t> bytes(count);
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng.next() >> 32);
    return bytes;
}

std::vector<uint8_t> random_rows(FormatId id, int64_t rows, int64_t k, Rng& rng) {
    const FormatInfo& f = format_info(id);
    std::vector<uint8_t> bytes = random_bytes(static_cast<size_t>(rows * f.row_bytes(k)), rng);
    const int64_t blocks = rows * k / f.block_size;
    for (int64_t i = 0; i < blocks; ++i) {
        uint8_t* block = bytes.data() + i * f.type_size;
        if (!f.is_float()) {
            set_scales(id, block, rng);
        } else if (id == FormatId::F32) {
            const float value = rng.uniform();
            std::memcpy(block, &value, 4);
        } else {
            const float value = rng.uniform();
            const uint16_t h = id == FormatId::F16 ? f32_to_f16(value) : f32_to_bf16(value);
            std::memcpy(block, &h, 2);
        }
    }
    return bytes;
}

std::vector<uint8_t> rows_of_byte(FormatId id, int64_t rows, int64_t k, uint8_t byte, Rng& rng) {
    const FormatInfo& f = format_info(id);
    std::vector<uint8_t> bytes(static_cast<size_t>(rows * f.row_bytes(k)), byte);
    for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(f.type_size))
        set_scales(id, bytes.data() + at, rng);
    return bytes;
}

#if defined(_WIN32)
GuardedBytes::GuardedBytes(const std::vector<uint8_t>& bytes) : data_(new uint8_t[bytes.size()]) {
    std::memcpy(data_, bytes.data(), bytes.size());
}
GuardedBytes::~GuardedBytes() {
    delete[] data_;
}
FarRows::FarRows(int64_t rows) : stride(128), data_(new float[static_cast<size_t>(rows * stride)]) {}
FarRows::~FarRows() {
    delete[] data_;
}
#else
GuardedBytes::GuardedBytes(const std::vector<uint8_t>& bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t pages = (bytes.size() + page - 1) / page;
    length_ = (pages + 1) * page;
    mapping_ = mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping_ == MAP_FAILED) throw "mmap failed";
    uint8_t* const end = static_cast<uint8_t*>(mapping_) + pages * page;
    if (mprotect(end, page, PROT_NONE) != 0) throw "mprotect failed";
    data_ = end - bytes.size();
    if (!bytes.empty()) std::memcpy(data_, bytes.data(), bytes.size());
}
GuardedBytes::~GuardedBytes() {
    munmap(mapping_, length_);
}

FarRows::FarRows(int64_t rows) : stride((int64_t{1} << 31) / (rows - 1) + 5) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    length_ = (static_cast<size_t>(rows * stride) * sizeof(float) / page + 2) * page;
    void* const start = mmap(nullptr, length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw "mmap failed";
    data_ = static_cast<float*>(start);
    for (int64_t r = 0; r < rows; ++r) {
        const size_t begin = static_cast<size_t>(r * stride) * sizeof(float) / page * page;
        if (mprotect(static_cast<uint8_t*>(start) + begin, 2 * page, PROT_READ | PROT_WRITE) != 0)
            throw "mprotect failed";
    }
}
FarRows::~FarRows() {
    munmap(data_, length_);
}
#endif

}  // namespace bq::test
