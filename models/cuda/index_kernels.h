// Kernels on a GPU that move rows to and from places named by indices.
#pragma once

#include "models/ops/kernels.h"

namespace sluice::models::cuda {

template <class T>
void gather_rows(const void* table, const int32_t* rows, void* y, int64_t count, int64_t width);
template <class T>
void scatter_rows(const void* x, const int32_t* rows, void* y, int64_t count, int64_t width);

// Tokens sorted by id: `order` [N]; where each id's begin in it, and the end: `begins` [ids + 1].
struct SortedTokens {
  const int32_t* token_ids = nullptr;
  const int32_t* order = nullptr;
  const int32_t* begins = nullptr;
  int64_t ids = 0;
};
// Adds rows of dy [N, width] to the table's rows, each in token order. The row `skip` is left as it is.
void scatter_add_rows(Dtype dtype, const void* dy, const SortedTokens& tokens, int64_t width, int32_t skip, void* table,
                      Dtype table_dtype);

}  // namespace sluice::models::cuda
