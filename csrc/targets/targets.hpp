// The one symbol of each per-instruction-set object: it fills a table. Call it only on a CPU that can run it.
#pragma once

namespace bq {

struct KernelTable;

void fill_baseline(KernelTable& table);
void fill_avx2(KernelTable& table);
void fill_avx512(KernelTable& table);
void fill_neon(KernelTable& table);
void fill_neon_dotprod(KernelTable& table);

}  // namespace bq
