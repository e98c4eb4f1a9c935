#include "runtime/caches.hpp"

#include <algorithm>

#if defined(__linux__)
#include <cstdio>
#elif defined(__APPLE__)
#include <sys/sysctl.h>

#include <cstddef>
#elif defined(_WIN32)
#include <vector>

#include <windows.h>
#endif

namespace bq {
namespace {

int64_t ask_for_largest() {
    int64_t largest = 0;
#if defined(__linux__)
    for (int index = 0; index < 8; ++index) {
        char path[80], unit = 0;
        std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
        std::FILE* const file = std::fopen(path, "r");
        if (file == nullptr) break;
        long long size = 0;
        const int read = std::fscanf(file, "%lld%c", &size, &unit);  // "512K"
        std::fclose(file);
        if (read < 1 || size < 0 || size > (1 << 30)) continue;
        largest = std::max<int64_t>(largest, size * (unit == 'K' ? 1 << 10 : unit == 'M' ? 1 << 20 : 1));
    }
#elif defined(__APPLE__)
    for (const char* name : {"hw.perflevel0.l2cachesize", "hw.l2cachesize", "hw.l3cachesize"}) {
        int64_t size = 0;
        std::size_t bytes = sizeof size;
        if (sysctlbyname(name, &size, &bytes, nullptr, 0) == 0) largest = std::max(largest, size);
    }
#elif defined(_WIN32)
    DWORD bytes = 0;
    GetLogicalProcessorInformation(nullptr, &bytes);
    std::vector<SYSTEM_LOGICAL_PROCESSOR_INFORMATION> found(bytes /
                                                            sizeof(SYSTEM_LOGICAL_PROCESSOR_INFORMATION));
    if (!found.empty() && GetLogicalProcessorInformation(found.data(), &bytes))
        for (const auto& each : found)
            if (each.Relationship == RelationCache) largest = std::max<int64_t>(largest, each.Cache.Size);
#endif
    return largest;
}

}  // namespace

int64_t largest_cache() {
    static const int64_t bytes = ask_for_largest();
    return bytes;
}

}  // namespace bq
