// What a file held before each write that no fsync of it has covered yet.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace sluice::crash {

using Clock = std::chrono::steady_clock;
constexpr int64_t kSectorBytes = 512;  // what a drive writes whole or not at all

// What becomes of unsynced writes and folder entries when the machine stops.
enum class Fault {
  killed,     // the process alone dies: nothing is lost
  dropped,    // all of it is lost
  reordered,  // each survives or not, by itself
  torn,       // the same, by sectors
};
std::optional<Fault> fault_named(const std::string& name);

// Not thread-safe. Files are named by descriptors that can be read (and written, in `lose`).
class FileJournal {
 public:
  // Before a call that may change bytes [offset, offset + bytes) and, where it ends beyond the file, its size.
  // Returns a ticket for `end`. Throws std::system_error.
  uint64_t begin_write(int fd, int64_t offset, int64_t bytes);
  uint64_t begin_resize(int fd, int64_t bytes);
  void end(uint64_t ticket);

  // An fsync covers what had ended before it began.
  uint64_t moment() const { return moment_; }
  void synced(uint64_t until);
  // The kernel writes back by itself what is old.
  void written_back(Clock::time_point until);
  bool empty() const { return records_.empty(); }

  // Gives the file one of the contents that the drive may have. Returns the writes of which something is lost.
  int64_t lose(int fd, Fault fault, std::mt19937_64& random);

 private:
  struct Record {
    uint64_t ticket;
    int64_t offset, bytes;
    std::vector<std::byte> old;  // shorter than `bytes`: zeros follow, or the end of the file
    int64_t old_size;
    Clock::time_point time;
    std::optional<uint64_t> end;  // moment; none while the call runs
  };
  uint64_t add(int fd, int64_t offset, int64_t bytes, int64_t size);

  std::deque<Record> records_;
  uint64_t moment_ = 0;  // counts begins and ends
};

}  // namespace sluice::crash
