#include "runtime/train/weights_sample.h"

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/core/result.h"
#include "runtime/train/checksums.h"

namespace sluice::train {

// Names come sorted, so that other shards of the same weights give the same sum.
uint64_t sample_of(const models::TensorIndex& weights) {
  constexpr int64_t kSampleBytes = 4096;
  RunningSum sum;
  std::vector<char> sample;
  for (const auto& [name, tensor] : weights.tensors) {
    std::string described = name + ' ' + std::string(name_of(tensor.dtype));
    for (const int64_t size : tensor.shape) described += ' ' + std::to_string(size);
    sum.add(std::as_bytes(std::span(described)));
    sample.resize(static_cast<size_t>(std::min(kSampleBytes, tensor.bytes)));
    const std::filesystem::path& path = weights.files[static_cast<size_t>(tensor.file)];
    std::ifstream file(path, std::ios::binary);
    file.seekg(tensor.offset + (tensor.bytes - static_cast<int64_t>(sample.size())) / 2);
    if (!sample.empty() && !file.read(sample.data(), static_cast<std::streamsize>(sample.size())))
      throw SetupError(
          path.string() + ": tensor '" + name + "' at byte " + std::to_string(tensor.offset) + " cannot be read",
          "check the file and the drive");
    sum.add(std::as_bytes(std::span(sample)));
  }
  return sum.digest();
}

}  // namespace sluice::train
