// The candidates of every combination of levels, against a search through the whole codebook.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "encode/grid_neighbours.hpp"
#include "formats/codebooks/grids.hpp"

namespace {

using namespace bq;
using namespace bq::encode;

// elements of `levels` levels, packed in `bits` each; candidates come from `shells` distances.
void check_grid(Grid grid, const uint16_t* points, int size, int elements, int levels, int bits, int shells) {
    CAPTURE(static_cast<int>(grid));
    const GridNeighbours& neighbours = grid_neighbours(grid);
    int keys = 1, on_grid = 0, wrong = 0;
    for (int i = 0; i < elements; ++i) keys *= levels;
    for (int key = 0; key < keys; ++key) {
        const int32_t code = neighbours.at[key];
        if (code < 0 && key % 7 != 0) continue;  // a sample of the lists
        std::map<int, std::vector<GridEntry>> by_distance;
        for (int j = 0; j < size; ++j) {
            int distance = 0;
            for (int i = 0, digits = key; i < elements; ++i, digits /= levels) {
                const int difference = digits % levels - (points[j] >> bits * i & ((1 << bits) - 1));
                distance += difference * difference;
            }
            by_distance[distance].push_back(static_cast<GridEntry>(j << 16 | points[j]));
        }
        if (code >= 0) {
            ++on_grid;
            wrong += by_distance[0] != std::vector<GridEntry>{static_cast<GridEntry>(code)};
            continue;
        }
        std::vector<GridEntry> expected;
        auto shell = by_distance.begin();
        for (int s = 0; s < shells; ++s, ++shell)
            expected.insert(expected.end(), shell->second.begin(), shell->second.end());
        const auto list = candidates(neighbours, code);
        expected.resize((expected.size() + 7) / 8 * 8, expected.front());
        const GridEntry* entries = list.chunks[0].entries;
        wrong += !std::equal(expected.begin(), expected.end(), entries, entries + 8 * list.count);
    }
    CHECK(on_grid == size);
    CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("the candidates of a combination of levels are the nearest points, in order") {
    check_grid(Grid::kIQ1S, codebooks::iq1_s::kGrid, 2048, 8, 3, 2, 3);
    check_grid(Grid::kIQ2XXS, codebooks::iq2_xxs::kGrid, 256, 8, 3, 2, 2);
    check_grid(Grid::kIQ2XS, codebooks::iq2_xs::kGrid, 512, 8, 3, 2, 2);
    check_grid(Grid::kIQ2S, codebooks::iq2_s::kGrid, 1024, 8, 3, 2, 1);
    check_grid(Grid::kIQ3XXS, codebooks::iq3_xxs::kGrid, 256, 4, 8, 3, 2);
    check_grid(Grid::kIQ3S, codebooks::iq3_s::kGrid, 512, 4, 8, 3, 3);
}
