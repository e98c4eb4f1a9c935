// Writes the seeds of fuzz_gguf into a directory: small valid files of both byte orders and versions.
#include <cstdio>
#include <fstream>

#include "gguf_bytes.hpp"

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: gguf_seeds DIRECTORY\n");
        return 2;
    }
    for (const bool big : {false, true})
        for (const uint32_t version : {2u, 3u}) {
            const auto bytes = bq::test::gguf_sample(big, version);
            const std::string name =
                std::string(argv[1]) + (big ? "/big" : "/little") + std::to_string(version);
            std::ofstream out(name, std::ios::binary);
            out.write(reinterpret_cast<const char*>(bytes.data()),
                      static_cast<std::streamsize>(bytes.size()));
            if (!out) {
                std::fprintf(stderr, "cannot write %s\n", name.c_str());
                return 1;
            }
        }
}
