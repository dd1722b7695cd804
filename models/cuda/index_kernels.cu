#include "models/cuda/index_kernels.h"
#include "models/cuda/packed.cuh"

namespace sluice::models::cuda {
namespace {

constexpr unsigned kThreads = 256;

// Rows that `rows` names lie in the table: they are gathered from there, or scattered to there.
enum class Way { gather, scatter };

template <Way kWay, class T, int kWidth>
__global__ void move(const T* x, const int32_t* rows, T* y, int64_t packs_of_row, int64_t packs_of_all) {
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pack >= packs_of_all) return;
  const int64_t in_table = rows[pack / packs_of_row] * packs_of_row + pack % packs_of_row;
  const int64_t from = kWay == Way::gather ? in_table : pack, to = kWay == Way::gather ? pack : in_table;
  reinterpret_cast<Pack<T, kWidth>*>(y)[to] = reinterpret_cast<const Pack<T, kWidth>*>(x)[from];
}

// One block per token id and stretch of columns.
template <class T, class To>
__global__ void scatter_add(const T* dy, SortedTokens tokens, int64_t width, int32_t skip, To* table) {
  const int32_t begin = tokens.begins[blockIdx.x], end = tokens.begins[blockIdx.x + 1];
  const int32_t token = tokens.token_ids[tokens.order[begin]];
  const int64_t column = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (token == skip || column >= width) return;
  To* to = table + token * width + column;
  float sum = to_float(*to);
#pragma unroll 4
  for (int32_t i = begin; i < end; ++i) sum += to_float(dy[tokens.order[i] * width + column]);
  *to = from_float<To>(sum);
}

template <Way kWay, class T>
void move_rows(const void* x, const int32_t* rows, void* y, int64_t count, int64_t width) {
  if (count == 0) return;
  const auto go = [&](auto pack) {
    const int64_t all = count * width / pack;
    move<kWay, T, pack><<<grid(blocks_for(all, kThreads)), kThreads, 0, stream()>>>(
        static_cast<const T*>(x), rows, static_cast<T*>(y), width / pack, all);
  };
  packs<T>(width, {x, y}) ? go(std::integral_constant<int, kWidest<T>>{}) : go(std::integral_constant<int, 1>{});
  check_launch("move_rows");
}

}  // namespace

template <class T>
void gather_rows(const void* table, const int32_t* rows, void* y, int64_t count, int64_t width) {
  move_rows<Way::gather, T>(table, rows, y, count, width);
}

template <class T>
void scatter_rows(const void* x, const int32_t* rows, void* y, int64_t count, int64_t width) {
  move_rows<Way::scatter, T>(x, rows, y, count, width);
}

template void gather_rows<float>(const void*, const int32_t*, void*, int64_t, int64_t);
template void gather_rows<__nv_bfloat16>(const void*, const int32_t*, void*, int64_t, int64_t);
template void gather_rows<__half>(const void*, const int32_t*, void*, int64_t, int64_t);
template void scatter_rows<float>(const void*, const int32_t*, void*, int64_t, int64_t);
template void scatter_rows<__nv_bfloat16>(const void*, const int32_t*, void*, int64_t, int64_t);
template void scatter_rows<__half>(const void*, const int32_t*, void*, int64_t, int64_t);

void scatter_add_rows(Dtype dtype, const void* dy, const SortedTokens& tokens, int64_t width, int32_t skip, void* table,
                      Dtype table_dtype) {
  if (tokens.ids == 0) return;
  const dim3 blocks = grid(tokens.ids, blocks_for(width, kThreads));
  with_elements(dy, dtype, [&](const auto* source) {
    with_elements(table, table_dtype, [&](auto* target) {
      scatter_add<<<blocks, kThreads, 0, stream()>>>(source, tokens, width, skip, target);
    });
  });
  check_launch("scatter_add_rows");
}

}  // namespace sluice::models::cuda
