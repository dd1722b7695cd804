// What the fuzzers share: a folder of their own as working directory, where readers that take a path find the input,
// and the one way in which bad input may end.
#pragma once

#include <stdlib.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "runtime/core/result.h"

namespace sluice::fuzz {

// Made before the first input, removed when the process ends. Input may name files, and must not find those around it.
class FuzzFolder {
 public:
  FuzzFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sluice-fuzz-XXXXXX").string();
    SLUICE_CHECK(::mkdtemp(pattern.data()) != nullptr, "no temporary folder");
    path_ = pattern;
    std::filesystem::current_path(path_);
    ::setenv("HOME", pattern.c_str(), 1);
  }
  ~FuzzFolder() {
    std::error_code ignored;
    std::filesystem::current_path("/", ignored);
    std::filesystem::remove_all(path_, ignored);
  }
  FuzzFolder(const FuzzFolder&) = delete;
  FuzzFolder& operator=(const FuzzFolder&) = delete;

  static void write(const std::filesystem::path& file, std::string_view bytes) {
    if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << bytes;
  }

 private:
  std::filesystem::path path_;
};

inline std::string_view text_of(const uint8_t* data, size_t bytes) {
  return {reinterpret_cast<const char*>(data), bytes};
}

// False when `read` refuses its input. Any exception but ours ends the process: it is a finding.
template <class Read>
bool accepts(const Read& read) {
  try {
    read();
    return true;
  } catch (const SluiceException& error) {
    SLUICE_CHECK(!error.error().message.empty(), "a refusal without a reason");
    return false;
  }
}

}  // namespace sluice::fuzz
