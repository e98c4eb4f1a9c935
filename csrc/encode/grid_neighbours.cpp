#include "encode/grid_neighbours.hpp"

#include <algorithm>
#include <span>
#include <vector>

#include "formats/codebooks/grids.hpp"

namespace bq::encode {
namespace {

struct Shape {
    int elements, levels;  // of a point
    int bits;              // of a packed level
    int shells;            // how many different distances candidates are taken from
};
constexpr Shape kEightOfThree{8, 3, 2, 0}, kFourOfEight{4, 8, 3, 0};

constexpr Shape with_shells(Shape shape, int shells) {
    shape.shells = shells;
    return shape;
}

class Built {
  public:
    Built(std::span<const uint16_t> points, const Shape& shape) : shape_(shape), points_(points) {
        half_keys_ = 1;
        for (int i = 0; i < shape.elements / 2; ++i) half_keys_ *= shape.levels;
        place_points();
        const std::vector<uint8_t> low = half_distances(0), high = half_distances(shape.elements / 2);
        const size_t n = points.size();
        std::vector<uint8_t> distances(n);
        for (int key = 0; key < half_keys_ * half_keys_; ++key) {
            if (at_[static_cast<size_t>(key)] >= 0) continue;
            const uint8_t* a = low.data() + static_cast<size_t>(key % half_keys_) * n;
            const uint8_t* b = high.data() + static_cast<size_t>(key / half_keys_) * n;
            for (size_t j = 0; j < n; ++j) distances[j] = static_cast<uint8_t>(a[j] + b[j]);
            add_list(static_cast<size_t>(key), distances);
        }
        view = {at_.data(), chunks_.data()};
    }
    Built(const Built&) = delete;
    Built& operator=(const Built&) = delete;

    GridNeighbours view;

  private:
    int level(size_t point, int element) const {
        return points_[point] >> shape_.bits * element & ((1 << shape_.bits) - 1);
    }
    GridEntry entry(size_t point) const { return static_cast<GridEntry>(point << 16 | points_[point]); }

    void place_points() {
        at_.assign(static_cast<size_t>(half_keys_) * static_cast<size_t>(half_keys_), -1);
        for (size_t j = 0; j < points_.size(); ++j) {
            int key = 0;
            for (int i = shape_.elements - 1; i >= 0; --i) key = key * shape_.levels + level(j, i);
            at_[static_cast<size_t>(key)] = static_cast<int32_t>(entry(j));
        }
    }

    // The squared distance of each point from each combination of levels, in half of the elements: at most
    // 2 * 7^2, so that the sum of both halves fits a byte.
    std::vector<uint8_t> half_distances(int first) const {
        const size_t n = points_.size();
        std::vector<uint8_t> distances(static_cast<size_t>(half_keys_) * n);
        std::vector<uint8_t> levels(n);
        for (int i = 0, unit = 1; i < shape_.elements / 2; ++i, unit *= shape_.levels) {
            for (size_t j = 0; j < n; ++j) levels[j] = static_cast<uint8_t>(level(j, first + i));
            for (int key = 0; key < half_keys_; ++key) {
                const int digit = key / unit % shape_.levels;
                uint8_t* row = distances.data() + static_cast<size_t>(key) * n;
                for (size_t j = 0; j < n; ++j)
                    row[j] =
                        static_cast<uint8_t>(row[j] + (digit - int{levels[j]}) * (digit - int{levels[j]}));
            }
        }
        return distances;
    }

    void add_list(size_t key, const std::vector<uint8_t>& distances) {
        bool occurs[256] = {};
        for (const uint8_t d : distances) occurs[d] = true;
        int shells[3];
        int limit = 0;
        for (int s = 0; s < shape_.shells; ++s) {
            do ++limit;
            while (!occurs[limit]);
            shells[s] = limit;
        }
        within_.clear();
        constexpr size_t kStep = 32;  // few points are near: look for them by the step
        for (size_t first = 0; first < distances.size(); first += kStep) {
            uint8_t any = 0;
            for (size_t j = first; j < first + kStep; ++j)
                any = static_cast<uint8_t>(any | (distances[j] <= static_cast<uint8_t>(limit)));
            if (!any) continue;
            for (size_t j = first; j < first + kStep; ++j)
                if (distances[j] <= limit) within_.push_back(j);
        }

        const size_t first_chunk = chunks_.size();
        size_t count = 0;
        const auto add = [&](GridEntry e) {
            if (count % 8 == 0) chunks_.emplace_back();
            chunks_.back().entries[count++ % 8] = e;
        };
        for (int s = 0; s < shape_.shells; ++s)
            for (const size_t j : within_)
                if (distances[j] == shells[s]) add(entry(j));
        const size_t padding = (8 - count % 8) % 8;
        while (count % 8 != 0) add(chunks_[first_chunk].entries[0]);
        constexpr int kCountBits = GridNeighbours::kCountBits, kPaddingBits = GridNeighbours::kPaddingBits;
        const size_t list = (first_chunk << kCountBits | count / 8) << kPaddingBits | padding;
        at_[key] = static_cast<int32_t>(~list);
    }

    Shape shape_;
    std::span<const uint16_t> points_;
    int half_keys_;
    std::vector<int32_t> at_;
    std::vector<GridChunk> chunks_;
    std::vector<size_t> within_;
};

}  // namespace

const GridNeighbours& grid_neighbours(Grid grid) {
    switch (grid) {
        case Grid::kIQ1S: {
            static const Built built(codebooks::iq1_s::kGrid, with_shells(kEightOfThree, 3));
            return built.view;
        }
        case Grid::kIQ2XXS: {
            static const Built built(codebooks::iq2_xxs::kGrid, with_shells(kEightOfThree, 2));
            return built.view;
        }
        case Grid::kIQ2XS: {
            static const Built built(codebooks::iq2_xs::kGrid, with_shells(kEightOfThree, 2));
            return built.view;
        }
        case Grid::kIQ2S: {
            static const Built built(codebooks::iq2_s::kGrid, with_shells(kEightOfThree, 1));
            return built.view;
        }
        case Grid::kIQ3XXS: {
            static const Built built(codebooks::iq3_xxs::kGrid, with_shells(kFourOfEight, 2));
            return built.view;
        }
        case Grid::kIQ3S:
            break;
    }
    static const Built built(codebooks::iq3_s::kGrid, with_shells(kFourOfEight, 3));
    return built.view;
}

}  // namespace bq::encode
