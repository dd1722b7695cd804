#include "models/cuda/placed_batches.h"

#include <algorithm>
#include <numeric>

#include "runtime/core/check.h"

namespace sluice::models::cuda {
namespace {

// Seven lists a micro-batch: ids, positions, supervised rows, labels and the order have a number per token at most,
// document starts and the begins of ids one more.
constexpr int64_t kLists = 7;
constexpr int64_t kAlignment = 4;  // elements: 16 bytes

int64_t elements_for(int64_t tokens_max, int64_t micro_batches_max) {
  return kLists * tokens_max + (2 + kLists * kAlignment) * micro_batches_max;
}

}  // namespace

Bytes PlacedBatches::bytes(int64_t tokens_max, int64_t micro_batches_max) {
  return Bytes{elements_for(tokens_max, micro_batches_max) * size_of(Dtype::i32)};
}

PlacedBatches::PlacedBatches(int64_t tokens_max, int64_t micro_batches_max)
    : capacity_(elements_for(tokens_max, micro_batches_max)),
      staging_(CudaMemoryKind::pinned, bytes(tokens_max, micro_batches_max), "the micro-batches' numbers"),
      device_(CudaMemoryKind::device, bytes(tokens_max, micro_batches_max), "the micro-batches' numbers") {}

const int32_t* PlacedBatches::put(std::span<const int32_t> numbers) {
  const auto count = static_cast<int64_t>(numbers.size());
  SLUICE_CHECK(used_ + count <= capacity_, "more tokens than the device has room for the numbers of");
  std::copy(numbers.begin(), numbers.end(), staging_.as<int32_t>() + used_);
  const int32_t* at = device_.as<int32_t>() + used_;
  used_ += round_up(count, kAlignment);
  return at;
}

const int32_t* PlacedBatches::on_host(const int32_t* put) const {
  return staging_.as<int32_t>() + (put - device_.as<int32_t>());
}

void PlacedBatches::put_supervised(const MicroBatch& batch, PlacedBatch& placed) {
  std::vector<int32_t> rows, labels;
  for (size_t i = 0; i < batch.labels.size(); ++i)
    if (batch.labels[i] >= 0) {
      rows.push_back(static_cast<int32_t>(i));
      labels.push_back(batch.labels[i]);
    }
  SupervisedTokens& tokens = placed.supervised;
  tokens.count = static_cast<int64_t>(rows.size());
  tokens.rows = put(rows);
  tokens.labels = put(labels);
  tokens.host_rows = on_host(tokens.rows);
  tokens.host_labels = on_host(tokens.labels);
}

void PlacedBatches::put_sorted(const MicroBatch& batch, PlacedBatch& placed) {
  const auto id = [&](int32_t token) { return batch.token_ids[static_cast<size_t>(token)]; };
  std::vector<int32_t> order(static_cast<size_t>(batch.tokens)), begins;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return id(a) < id(b); });
  for (size_t i = 0; i < order.size(); ++i)
    if (i == 0 || id(order[i]) != id(order[i - 1])) begins.push_back(static_cast<int32_t>(i));
  placed.sorted.ids = static_cast<int64_t>(begins.size());
  begins.push_back(static_cast<int32_t>(batch.tokens));
  placed.sorted.token_ids = placed.token_ids;
  placed.sorted.order = put(order);
  placed.sorted.begins = put(begins);
}

void PlacedBatches::place(std::span<const MicroBatch> batches) {
  placed_.clear();
  used_ = 0;
  for (const MicroBatch& batch : batches) {
    PlacedBatch placed;
    placed.tokens = batch.tokens;
    placed.token_ids = put(batch.token_ids);
    placed.positions = put(batch.positions);
    placed.document_starts = put(batch.document_starts);
    for (size_t d = 0; d + 1 < batch.document_starts.size(); ++d)
      placed.longest_document =
          std::max<int64_t>(placed.longest_document, batch.document_starts[d + 1] - batch.document_starts[d]);
    put_supervised(batch, placed);
    put_sorted(batch, placed);
    placed_.push_back(placed);
  }
  const auto bytes = static_cast<size_t>(used_ * size_of(Dtype::i32));
  if (bytes > 0) copy_to_device(device_.as<int32_t>(), staging_.bytes().first(bytes), "the micro-batches' numbers");
}

const PlacedBatch& PlacedBatches::of(const MicroBatch& batch) const {
  SLUICE_CHECK(batch.index < placed_.size() && placed_[batch.index].tokens == batch.tokens,
               "a micro-batch that was not placed");
  return placed_[batch.index];
}

}  // namespace sluice::models::cuda
