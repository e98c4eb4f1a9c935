#include "matmul/product.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "matmul/packed_rows.hpp"
#include "matmul/strips.hpp"
#include "runtime/caches.hpp"
#include "runtime/thread_pool.hpp"
#include "targets/strip_kernels.hpp"

namespace bq {
namespace {

// Work is handed out in pieces of about this many multiplications, so that small products stay on one thread.
constexpr int64_t kPiece = 32768;
// A product of up to this many takes one thread some 45 microseconds in the slowest formats.
constexpr int64_t kBrief = int64_t{1} << 20;

// Memory that is not initialized; kept between calls of a thread, for each purpose, while it is not large.
template <class Purpose>
class Scratch {
  public:
    explicit Scratch(int64_t bytes) {
        static thread_local Memory kept;
        constexpr int64_t kKeepAtMost = 64 << 20;
        Memory& memory = bytes <= kKeepAtMost ? kept : own_;
        if (memory.bytes < bytes) {
            memory.start.reset(new (std::align_val_t{kAlign}) std::byte[static_cast<size_t>(bytes)]);
            memory.bytes = bytes;
        }
        base_ = memory.start.get();
    }
    std::byte* at(int64_t offset) const { return base_ + offset; }

  private:
    static constexpr size_t kAlign = 64;
    struct Free {
        void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{kAlign}); }
    };
    struct Memory {
        std::unique_ptr<std::byte[], Free> start;
        int64_t bytes = 0;
    };
    Memory own_;
    std::byte* base_;
};

// Offsets of the parts of a scratch.
struct Sizes {
    int64_t total = 0;
    int64_t add(int64_t bytes) {
        const int64_t offset = total;
        total += whole_lines(bytes);
        return offset;
    }
};

// Consecutive activation rows that take the same matrix.
struct Segment {
    int64_t first, rows, expert;
    bool panels;
    int64_t packed_offset;
};

// The order of rows by expert, and its segments.
std::vector<Segment> segments_by_expert(const int32_t* expert, int64_t m, int64_t experts,
                                        std::vector<int64_t>& order) {
    std::vector<int64_t> next(static_cast<size_t>(experts) + 1, 0);
    for (int64_t r = 0; r < m; ++r) ++next[static_cast<size_t>(expert[r]) + 1];
    std::vector<Segment> segments;
    for (int64_t e = 0; e < experts; ++e) {
        const int64_t rows = next[static_cast<size_t>(e) + 1];
        next[static_cast<size_t>(e) + 1] += next[static_cast<size_t>(e)];
        if (rows > 0) segments.push_back({next[static_cast<size_t>(e)], rows, e, false, 0});
    }
    order.resize(static_cast<size_t>(m));
    for (int64_t r = 0; r < m; ++r) order[static_cast<size_t>(next[static_cast<size_t>(expert[r])]++)] = r;
    return segments;
}

// Floats from one row of activations to the next one's copy: a cache line more than a multiple of 4 KiB, and
// half of 4 KiB too where parts of 2 KiB of all rows are to stay in the level-1 cache, beside weights.
int64_t spread_row(int64_t k, bool in_parts) {
    constexpr int64_t kPage = 1024, kLine = 16;
    if (!in_parts || k < kPage) return (k + kLine - 1) / kLine * kLine + kLine;
    return (k + kPage / 2 - kLine - 1) / kPage * kPage + kPage / 2 + kLine;
}

// Activation rows of row_bytes that pass each panel of weights: again and again, so that they should come
// from a cache. An eighth of the largest one is what a thread may count on where threads and other processes
// share it. Weights are unpacked once for each block.
int64_t rows_of_block(int64_t row_bytes) {
    constexpr int64_t kLeast = 132;
    const int64_t cache = largest_cache();
    return cache == 0 ? kMostBlockRows : std::clamp(cache / 8 / row_bytes, kLeast, kMostBlockRows);
}

// One call of multiply.
struct Product {
    const KernelTable& table;
    const FormatKernels& kernel;
    const WeightMatrix& w;
    const float* x;
    int64_t m;
    float* y;
    int threads;
    bool exact;
    std::vector<Segment> segments;
    int64_t row_bytes;

    const uint8_t* matrix(const Segment& s) const { return w.data + s.expert * w.n * row_bytes; }
    int64_t mean_rows() const { return (m - 1) / static_cast<int64_t>(segments.size()) + 1; }
    template <class Pay>
    void choose_panels(bool have, Pay&& pay) {
        for (Segment& s : segments) s.panels = have && pay(s.rows);
    }
    bool any_few() const {
        return std::any_of(segments.begin(), segments.end(), [](const Segment& s) { return !s.panels; });
    }
    // body(begin, end) over [0, count) on all threads.
    template <class Body>
    void on_all_threads(int64_t count, int64_t grain, Body&& body) const {
        parallel_for(count, grain, threads, body, m <= kBrief / w.n / w.k ? Work::brief : Work::any);
    }
    // body(segment, begin, end) over all weight rows of all segments; begin is a multiple of `lanes`.
    template <class Body>
    void for_weight_rows(int64_t lanes, Body&& body) const {
        const int64_t padded = (w.n + lanes - 1) / lanes * lanes;
        const int64_t wanted = kPiece / std::max<int64_t>(1, mean_rows() * w.k);
        const int64_t grain = std::max<int64_t>(1, wanted / lanes) * lanes;
        on_all_threads(padded * static_cast<int64_t>(segments.size()), grain,
                       [&](int64_t begin, int64_t end) {
                           while (begin < end) {
                               const int64_t index = begin / padded, from = begin % padded;
                               const int64_t to = std::min(padded, from + end - begin);
                               if (from < w.n)
                                   body(segments[static_cast<size_t>(index)], from, std::min(w.n, to));
                               begin += to - from;
                           }
                       });
    }
    // The rows of the segments that go through panels, packed tile by tile.
    template <class Pack>
    void pack_segments(int tile_rows, Pack&& pack) const {
        for (const Segment& s : segments)
            if (s.panels)
                on_all_threads(s.rows, tile_rows, [&](int64_t begin, int64_t end) { pack(s, begin, end); });
    }
    int64_t rows_in_strips() const { return w.lanes == 0 ? 0 : w.n / w.lanes * w.lanes; }
    // Weight rows that are handed out together: whole panels and whole strips.
    int64_t together(const PanelShape& shape) const { return std::max(shape.lanes, w.lanes); }

    // body(rows, count, n) for the weight rows begin to end - 1, `count` of them from row n on at a time;
    // those of strips are put together first, `together` at a time.
    template <class Body>
    void each_rows(const Segment& s, int64_t begin, int64_t end, const PanelShape& shape, Body&& body) const {
        const uint8_t* const from = matrix(s);
        const int64_t in_strips = std::min(end, rows_in_strips());
        if (begin < in_strips) {
            const Scratch<struct Rows> rows(together(shape) * row_bytes);
            auto* const to = reinterpret_cast<uint8_t*>(rows.at(0));
            for (int64_t n = begin, count; n < in_strips; n += count) {
                count = std::min(together(shape), in_strips - n);
                for (int64_t i = 0; i < count; i += w.lanes)
                    strip_to_rows(w.format->id, w.lanes, w.k / w.format->block_size,
                                  from + (n + i) * row_bytes, to + i * row_bytes);
                body(to, count, n);
            }
        }
        const int64_t rest = std::max(begin, in_strips);
        if (rest < end) body(from + rest * row_bytes, end - rest, rest);
    }

    void with_floats() {
        const PanelShape& shape = kernel.float_panel_shape;
        // Where there are kernels for them, bfloat16 weights take activations of their own precision.
        const bool rounds = !exact && kernel.matmul_bf16_panels != nullptr;
        const auto panels = rounds ? kernel.matmul_bf16_panels : kernel.matmul_float_panels;
        const int from = rounds ? kernel.bf16_panels_from : kernel.float_panels_from;
        choose_panels(panels != nullptr, [&](int64_t rows) {
            return rows >= from &&
                   padded_rows(rows, shape.tile_rows) * kernel.float_panels_fill <= 100 * rows;
        });
        Sizes sizes;
        const auto round = table[FormatId::F32].decode_bf16;
        const bool few = any_few(), rounds_few = rounds && few;
        // Rows of activations that lie a multiple of 4 KiB apart, from each other and often from the weights,
        // would meet in the same few places of the level-1 cache: copies lie a cache line further apart.
        const bool copies_few = !rounds && few && w.format->is_float() && m > 1;
        const int64_t stride = rounds_few   ? (w.k + 31) / 32 * 32 + 32
                               : copies_few ? spread_row(w.k, kernel.floats_in_parts)
                                            : w.k;
        const int64_t few_offset = sizes.add(rounds_few ? m * stride * 2 : copies_few ? m * stride * 4 : 0);
        const auto packed_bytes = rounds ? packed_bf16_bytes : packed_float_bytes;
        for (Segment& s : segments)
            if (s.panels) s.packed_offset = sizes.add(packed_bytes(s.rows, w.k, shape.tile_rows));
        const Scratch<struct Inputs> scratch(sizes.total);
        auto* const rounded = reinterpret_cast<uint16_t*>(scratch.at(few_offset));
        auto* const copied = reinterpret_cast<float*>(scratch.at(few_offset));
        if (rounds_few || copies_few)
            on_all_threads(m, std::max<int64_t>(1, kPiece / w.k), [&](int64_t begin, int64_t end) {
                for (int64_t r = begin; r < end; ++r)
                    if (copies_few)
                        std::copy_n(x + r * w.k, w.k, copied + r * stride);
                    else
                        round(reinterpret_cast<const uint8_t*>(x + r * w.k), rounded + r * stride, w.k);
            });
        const float* const floats = copies_few ? copied : x;
        const auto packed = [&](const Segment& s) {
            return PackedFloats{reinterpret_cast<const float*>(scratch.at(s.packed_offset)), s.rows, w.k,
                                rows_of_block(w.k * (rounds ? 2 : 4))};
        };
        pack_segments(shape.tile_rows, [&](const Segment& s, int64_t begin, int64_t end) {
            const float* const from = x + s.first * w.k;
            if (rounds)
                pack_bf16_rows(from, begin, end, shape.tile_rows, packed(s), round);
            else
                pack_float_rows(from, begin, end, shape.tile_rows, packed(s));
        });
        const auto multiply = [&](const Segment& s, int64_t begin, int64_t end) {
            each_rows(s, begin, end, shape, [&](const uint8_t* rows, int64_t count, int64_t n) {
                float* const to = y + s.first * w.n + n;
                if (s.panels)
                    panels(rows, row_bytes, 0, count, packed(s), to, w.n);
                else if (rounds)
                    kernel.matmul_bf16(rows, row_bytes, 0, count,
                                       {rounded + s.first * stride, stride, s.rows, w.k}, to, w.n);
                else
                    kernel.matmul_f32(rows, row_bytes, 0, count,
                                      {floats + s.first * stride, stride, s.rows, w.k}, to, w.n);
            });
        };
        for_weight_rows(together(shape), multiply);
    }

    void with_int8() {
        const PanelShape& shape = kernel.panel_shape;
        const ActivationLayout layout = ActivationLayout::of(m, w.k, activation_run(*w.format));
        const StripKernels& strips = strip_kernels(table);
        const MatmulStrips of_strips = strips.lanes == w.lanes ? strips[w.format->id] : nullptr;
        const MatmulStripPanels strip_panels = strips.panels[static_cast<int>(w.format->id)];
        choose_panels(kernel.matmul_panels != nullptr, [&](int64_t rows) {
            return of_strips ? strips.panels_pay(w.format->id, rows, shape.tile_rows)
                             : rows >= kernel.panels_from;
        });
        const bool transposed = of_strips != nullptr && any_few() && strip_layout(w.format->id).transposed;
        Sizes sizes;
        const int64_t quantized = sizes.add(layout.bytes);
        const int64_t in_order = sizes.add(transposed ? m * w.k : 0);
        for (Segment& s : segments)
            if (s.panels) s.packed_offset = sizes.add(PackedLayout::of(s.rows, w.k, shape).bytes);
        const Scratch<struct Inputs> scratch(sizes.total);
        const Activations all = layout.view(scratch.at(quantized), m, w.k);
        Activations ordered = all;  // as the strips want them
        if (transposed) ordered.q = reinterpret_cast<const int8_t*>(scratch.at(in_order));
        on_all_threads(m, std::max<int64_t>(1, kPiece / 4 / w.k), [&](int64_t begin, int64_t end) {
            table.quantize_activations(x, begin, end, all);
            if (transposed)
                strips.transpose(all.q + begin * w.k, const_cast<int8_t*>(ordered.q) + begin * w.k,
                                 (end - begin) * w.k);
        });
        const auto packed = [&](const Segment& s) {
            const PackedLayout packing = PackedLayout::of(s.rows, w.k, shape);
            PackedRows rows = packing.view(scratch.at(s.packed_offset), s.rows, w.k);
            rows.block_rows = rows_of_block(packing.bytes / s.rows);
            return rows;
        };
        pack_segments(shape.tile_rows, [&](const Segment& s, int64_t begin, int64_t end) {
            pack_rows(all.part(s.first, s.rows), begin, end, shape, packed(s));
        });
        const auto multiply = [&](const Segment& s, int64_t begin, int64_t end) {
            float* const to = y + s.first * w.n;
            if (of_strips != nullptr && (!s.panels || strip_panels != nullptr)) {
                const int64_t last = std::min(end, rows_in_strips());
                if (begin < last && s.panels)
                    strip_panels(matrix(s), row_bytes, begin / w.lanes, last / w.lanes, packed(s), to, w.n);
                else if (begin < last)
                    of_strips(matrix(s), row_bytes, begin / w.lanes, last / w.lanes,
                              ordered.part(s.first, s.rows), to, w.n);
                begin = std::max(begin, last);
                if (begin >= end) return;
            }
            each_rows(s, begin, end, shape, [&](const uint8_t* rows, int64_t count, int64_t n) {
                if (s.panels)
                    kernel.matmul_panels(rows, row_bytes, 0, count, packed(s), to + n, w.n);
                else
                    kernel.matmul_i8(rows, row_bytes, 0, count, all.part(s.first, s.rows), to + n, w.n);
            });
        };
        for_weight_rows(together(shape), multiply);
    }
};

// The bytes of w with all whole strips of `lanes` rows converted, and what is left of each matrix as it is.
void convert_strips(const WeightMatrix& w, int lanes, uint8_t* out, int threads,
                    void (*convert)(FormatId, int, int64_t, const uint8_t*, uint8_t*)) {
    const int64_t row_bytes = w.format->row_bytes(w.k), strips = w.n / lanes;
    parallel_for(w.experts * strips, 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t at = (i / strips * w.n + i % strips * lanes) * row_bytes;
            convert(w.format->id, lanes, w.k / w.format->block_size, w.data + at, out + at);
        }
    });
    for (int64_t e = 0; e < w.experts; ++e) {
        const int64_t at = (e * w.n + strips * lanes) * row_bytes;
        std::copy_n(w.data + at, (w.n - strips * lanes) * row_bytes, out + at);
    }
}

}  // namespace

int best_lanes(const KernelTable& table, FormatId id, int64_t activation_rows) {
    const StripKernels& strips = strip_kernels(table);
    if (strips[id] == nullptr) return 0;
    const bool lasts =
        strips.panels[static_cast<int>(id)] != nullptr || activation_rows < strips.panel_rows(id);
    return lasts && activation_rows >= strips.pay_from[static_cast<int>(id)] ? strips.lanes : 0;
}

void lay_out(const WeightMatrix& w, int lanes, uint8_t* out, int threads) {
    convert_strips(w, lanes, out, threads, rows_to_strip);
}

void take_apart(const WeightMatrix& w, uint8_t* out, int threads) {
    convert_strips(w, w.lanes, out, threads, strip_to_rows);
}

void multiply(const KernelTable& table, const WeightMatrix& w, const float* x, int64_t m,
              const int32_t* expert, float* y, int threads, bool exact) {
    if (m == 0 || w.n == 0) return;
    if (w.k == 0) {
        std::fill(y, y + m * w.n, 0.0f);
        return;
    }
    Product product{table,
                    table[w.format->id],
                    w,
                    x,
                    m,
                    y,
                    threads,
                    exact,
                    {{0, m, 0, false, 0}},
                    w.format->row_bytes(w.k)};
    // Rows of the same expert are brought together, and their results back where they belong.
    std::vector<int64_t> order;
    std::vector<float> sorted_x, sorted_y;
    if (expert != nullptr) {
        product.segments = segments_by_expert(expert, m, w.experts, order);
        sorted_x.resize(static_cast<size_t>(m * w.k));
        sorted_y.resize(static_cast<size_t>(m * w.n));
        for (int64_t i = 0; i < m; ++i)
            std::memcpy(sorted_x.data() + i * w.k, x + order[static_cast<size_t>(i)] * w.k,
                        static_cast<size_t>(w.k) * sizeof(float));
        product.x = sorted_x.data();
        product.y = sorted_y.data();
    }
    if (exact || w.format->is_float())
        product.with_floats();
    else
        product.with_int8();
    for (int64_t i = 0; expert != nullptr && i < m; ++i)
        std::memcpy(y + order[static_cast<size_t>(i)] * w.n, sorted_y.data() + i * w.n,
                    static_cast<size_t>(w.n) * sizeof(float));
}

}  // namespace bq
