#include <doctest/doctest.h>

#include <string_view>

#include "formats/format.hpp"

TEST_CASE("the registry lists 25 quantized formats in the order of their ids and finds each") {
    int quantized = 0, previous = -1;
    for (const bq::FormatInfo& f : bq::all_formats()) {
        CHECK(static_cast<int>(f.id) > previous);
        previous = static_cast<int>(f.id);
        quantized += !f.is_float();
        CHECK(bq::find_format(std::string_view(f.name)) == &f);
        CHECK(bq::find_format(static_cast<int64_t>(f.id)) == &f);
        if (!f.is_float()) CHECK(f.block_size % f.run == 0);
    }
    CHECK(quantized == 25);
    for (int64_t id : {-1, 4, 5, 31, 43, 1000}) CHECK(bq::find_format(id) == nullptr);
    CHECK(bq::find_format(std::string_view("Q9_9")) == nullptr);
}
