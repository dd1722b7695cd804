// The header of a safetensors file to be written: final before any data is.
#include <algorithm>
#include <bit>
#include <set>

#include "models/json_file.h"
#include "models/safetensors.h"
#include "models/stored_type.h"
#include "runtime/core/check.h"
#include "runtime/core/units.h"

namespace sluice::models {

namespace {

constexpr int64_t kLengthBytes = 8;            // little-endian length of the JSON that follows it
constexpr int64_t kDataAlignmentBytes = 4096;  // O_DIRECT

int64_t bytes_of(const NewTensor& tensor) {
  int64_t bytes = size_of(tensor.dtype);
  for (const int64_t dimension : tensor.shape) {
    SLUICE_CHECK(dimension >= 0, "negative size: " + tensor.name);
    SLUICE_CHECK(!__builtin_mul_overflow(bytes, dimension, &bytes), "size overflow: " + tensor.name);
  }
  return bytes;
}

int64_t alignment_of(int64_t bytes) {
  constexpr int64_t kMost = kTensorAlignmentBytes;
  return bytes % kMost == 0 ? kMost : int64_t{1} << std::countr_zero(static_cast<uint64_t>(bytes));
}

std::string header_json(const std::vector<const TensorLocation*>& in_file_order,
                        const std::map<std::string, std::string>& metadata) {
  std::string json = "{";
  if (!metadata.empty()) json += "\"__metadata__\":" + SortedJson(metadata).dump() + ",";
  for (const TensorLocation* tensor : in_file_order) {
    const Json entry = {{"dtype", stored_name(tensor->dtype)},
                        {"shape", tensor->shape},
                        {"data_offsets", {tensor->offset, tensor->offset + tensor->bytes}}};
    json += Json(tensor->name).dump();
    json += ':';
    json += entry.dump();
    json += ',';
  }
  if (json.back() == ',') json.pop_back();
  return json + "}";
}

std::string five_digits(size_t number) {
  const std::string digits = std::to_string(number);
  return std::string(5 - std::min<size_t>(5, digits.size()), '0') + digits;
}

}  // namespace

std::string shard_name(std::string_view what, size_t number, size_t count) {
  return std::string(what) + "-" + five_digits(number + 1) + "-of-" + five_digits(count) + ".safetensors";
}

TensorFileLayout plan_tensor_file(const std::vector<NewTensor>& tensors,
                                  const std::map<std::string, std::string>& metadata) {
  TensorFileLayout layout;
  std::set<std::string> names;
  for (const NewTensor& tensor : tensors) {
    SLUICE_CHECK(tensor.name != "__metadata__" && names.insert(tensor.name).second,
                 "tensor name twice: " + tensor.name);
    layout.tensors.push_back({tensor.name, tensor.dtype, tensor.shape, 0, 0, bytes_of(tensor)});
  }

  std::vector<TensorLocation*> in_file_order;
  for (TensorLocation& tensor : layout.tensors) in_file_order.push_back(&tensor);
  std::stable_sort(in_file_order.begin(), in_file_order.end(), [](const TensorLocation* a, const TensorLocation* b) {
    return alignment_of(a->bytes) > alignment_of(b->bytes);
  });
  int64_t data_bytes = 0;
  for (TensorLocation* tensor : in_file_order) {
    tensor->offset = data_bytes;
    data_bytes += tensor->bytes;
  }

  const std::string json = header_json({in_file_order.begin(), in_file_order.end()}, metadata);
  const int64_t data_begin = round_up(kLengthBytes + static_cast<int64_t>(json.size()), kDataAlignmentBytes);
  const auto length = static_cast<uint64_t>(data_begin - kLengthBytes);
  for (int i = 0; i < kLengthBytes; ++i) layout.header += static_cast<char>((length >> (8 * i)) & 0xff);
  layout.header += json;
  layout.header.resize(static_cast<size_t>(data_begin), ' ');
  for (TensorLocation& tensor : layout.tensors) tensor.offset += data_begin;
  layout.file_bytes = data_begin + data_bytes;
  return layout;
}

}  // namespace sluice::models
