// Checksums of the files of a folder (XXH3, 64 bits), kept per part: a tensor, a header, or a whole small file. They
// are made while the bytes are written, and verified in bounded memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/work.h"

struct XXH3_state_s;

namespace sluice::train {

// Of bytes that come piece by piece, in order.
class RunningSum {
 public:
  RunningSum();
  void add(std::span<const std::byte> bytes);
  int64_t bytes() const { return bytes_; }
  uint64_t digest() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
  int64_t bytes_ = 0;
};

struct FilePart {
  std::string name;    // the tensor's; empty: the whole file
  int64_t offset = 0;  // bytes from the start of the file
  int64_t bytes = 0;
  uint64_t digest = 0;
};
struct FileSums {
  int64_t bytes = 0;
  std::vector<FilePart> parts;  // together the whole file
};
using Checksums = std::map<std::string, FileSums>;  // by the file's name in the folder

FileSums sums_of(std::string_view text);

std::string to_json(const Checksums& sums);
// Throws SetupError without a hint: not what to_json writes.
Checksums read_checksums(const std::filesystem::path& file);

// The first file that is missing, cannot be read, or is not what it was, with tensor and bytes; nothing when all are
// whole. Reads every byte once, on a few threads, and tells `verified` of them, part by part.
std::optional<std::string> find_damage(const std::filesystem::path& folder, const Checksums& sums,
                                       const Advance& verified = {});

}  // namespace sluice::train
