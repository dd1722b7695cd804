// One safetensors file: its header, and the descriptions of low bits that lie in its tensors.
#include <algorithm>
#include <cstring>
#include <random>

#include "models/low_bit_files.h"
#include "models/safetensors.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t bytes, size_t bytes_max);

namespace sluice::fuzz {
namespace {

constexpr const char* kFile = "model.safetensors";
constexpr size_t kLengthBytes = 8;

void check_places(const models::TensorIndex& index, int64_t file_bytes) {
  for (const auto& [name, tensor] : index.tensors) {
    SLUICE_CHECK(name == tensor.name && tensor.file == 0, "a tensor under another name");
    SLUICE_CHECK(tensor.offset >= static_cast<int64_t>(kLengthBytes) && tensor.bytes >= 0 &&
                     tensor.bytes <= file_bytes - tensor.offset,
                 "a tensor outside its file");
    SLUICE_CHECK(&index.at(name, tensor.shape) == &tensor, "a tensor that is not found");
  }
}

}  // namespace
}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  static const fuzz::FuzzFolder folder;
  fuzz::FuzzFolder::write(fuzz::kFile, fuzz::text_of(data, bytes));
  fuzz::accepts([&] {
    models::TensorIndex index = models::TensorIndex::of_directory(".");
    fuzz::check_places(index, static_cast<int64_t>(bytes));
    models::take_low_bit_descriptions(index);
  });
  return 0;
}

// Most mutations would stop at a length that no longer fits: three of four get the one that ends at the last brace.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t bytes, size_t bytes_max, unsigned seed) {
  bytes = LLVMFuzzerMutate(data, bytes, bytes_max);
  const std::string_view text = sluice::fuzz::text_of(data, bytes);
  const size_t brace = text.rfind('}');
  if (std::minstd_rand(seed)() % 4 == 0 || brace == std::string_view::npos || brace < sluice::fuzz::kLengthBytes)
    return bytes;
  const uint64_t header_bytes = brace + 1 - sluice::fuzz::kLengthBytes;
  std::memcpy(data, &header_bytes, sizeof header_bytes);
  return bytes;
}
