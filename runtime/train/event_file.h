// Event files as TensorBoard reads them: records framed as TensorFlow's TFRecord, each an Event message in Protocol
// Buffers' wire format. Only what scalars need of either.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/train/output_file.h"

namespace sluice::train {

// CRC-32C (Castagnoli) of RFC 3720, appendix B.4.
uint32_t crc32c(std::string_view bytes);

using Scalars = std::vector<std::pair<std::string_view, double>>;  // tag, value

// Not thread-safe. All throw RunError.
class EventFile {
 public:
  // A new file in the folder, after those that are there. `first_step`: events of it and of later steps in files before
  // this one are of a run that is taken up again before them, and are not shown any more.
  EventFile(const std::filesystem::path& folder, int64_t first_step, const SpacePatience& patience);

  // In the file when it returns.
  void write(int64_t step, const Scalars& scalars);

 private:
  void write_event(int64_t step, const std::string& content);

  OutputFile file_;
};

}  // namespace sluice::train
