// Which ranges of the swap files are free, and who holds the others: an extent, checkpoints, or both. What a checkpoint
// holds is never written; an extent that it shares moves to free ranges before its next write.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace sluice::swap {

struct Piece {
  int path = 0;
  int64_t offset = 0;     // in that path's file
  int64_t bytes = 0;      // a multiple of 4096
  uint64_t checksum = 0;  // XXH3 of what was last written
};

class ExtentSpace {
 public:
  explicit ExtentSpace(size_t paths) : free_(paths) {}

  // New room in a path's file.
  void add(int path, int64_t offset, int64_t bytes);
  int64_t free_bytes(int path) const;
  int64_t free_bytes() const;

  // Held once. On the path asked for; where that is full, on others; in one piece where a free range is long enough.
  // CHECK failure when all paths together do not have it.
  std::vector<Piece> take(int path, int64_t bytes);

  // One more holder. `hold` also takes pieces out of free ranges: those of a file that was there before.
  void hold(std::span<const Piece> pieces);
  // One holder fewer; without any, a piece is free.
  void release(std::span<const Piece> pieces);
  bool is_shared(std::span<const Piece> pieces) const;
  int64_t held_bytes() const;

  // By offset; of one path.
  const std::map<int64_t, int64_t>& free_ranges(int path) const { return free_[static_cast<size_t>(path)]; }

 private:
  struct Held {
    int64_t bytes = 0;
    int holders = 0;
  };
  void take_exactly(const Piece& piece);
  Held& held_at(const Piece& piece);

  std::vector<std::map<int64_t, int64_t>> free_;  // per path: offset -> bytes, never adjacent
  std::map<std::pair<int, int64_t>, Held> held_;  // by path and offset
};

}  // namespace sluice::swap
