// What the suites about the swap engine share: folders, a backend that misbehaves, bytes, and waiting for their
// transfers.
#pragma once

#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>

#include "runtime/core/check.h"
#include "swap/faulty_backend.h"
#include "swap/swap_engine.h"

namespace sluice::swap {

namespace fs = std::filesystem;

class Folder {
 public:
  explicit Folder(const fs::path& parent = fs::temp_directory_path()) {
    std::string name = (parent / "sluice-conformance-XXXXXX").string();
    SLUICE_CHECK(mkdtemp(name.data()) != nullptr, "a folder for the test");
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// A file system of our own; none where mounting is not allowed.
class MountedDrive {
 public:
  MountedDrive(const char* kind, const char* options)
      : mounted_(mount(kind, folder_.path().c_str(), kind, 0, options) == 0) {}
  ~MountedDrive() {
    if (mounted_) umount2(folder_.path().c_str(), MNT_DETACH);
  }
  MountedDrive(const MountedDrive&) = delete;
  MountedDrive& operator=(const MountedDrive&) = delete;
  bool mounted() const { return mounted_; }
  const fs::path& path() const { return folder_.path(); }

 private:
  Folder folder_;
  bool mounted_;
};

inline SwapEngine::WrapBackend wrapped(const Faults& faults) {
  return [faults](std::unique_ptr<IoBackend> inner) { return make_faulty_backend(std::move(inner), faults); };
}

inline void fill(std::span<std::byte> memory, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t i = 0; i + 8 <= memory.size(); i += 8) {
    const uint64_t value = random();
    std::memcpy(memory.data() + i, &value, 8);
  }
}

// Waits for `count` completions, by token.
inline std::map<uint64_t, Result<void>> settle(SwapEngine& engine, size_t count) {
  std::map<uint64_t, Result<void>> results;
  for (int rounds = 0; results.size() < count && rounds < 3000; ++rounds)
    for (Completion& completion : engine.wait(std::chrono::milliseconds(10)))
      EXPECT_TRUE(results.emplace(completion.token, std::move(completion.result)).second) << "a token completed twice";
  EXPECT_EQ(results.size(), count);
  return results;
}

inline void expect_ok(const std::map<uint64_t, Result<void>>& results) {
  for (const auto& [token, result] : results) EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().text());
}

}  // namespace sluice::swap
