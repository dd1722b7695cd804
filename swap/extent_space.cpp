#include "swap/extent_space.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace sluice::swap {

void ExtentSpace::add(int path, int64_t offset, int64_t bytes) {
  if (bytes == 0) return;
  auto& ranges = free_[static_cast<size_t>(path)];
  auto after = ranges.lower_bound(offset);
  SLUICE_CHECK(after == ranges.end() || offset + bytes <= after->first, "a range of a swap file is freed twice");
  if (after != ranges.end() && after->first == offset + bytes) {
    bytes += after->second;
    after = ranges.erase(after);
  }
  if (after != ranges.begin()) {
    const auto before = std::prev(after);
    SLUICE_CHECK(before->first + before->second <= offset, "a range of a swap file is freed twice");
    if (before->first + before->second == offset) {
      before->second += bytes;
      return;
    }
  }
  ranges.emplace_hint(after, offset, bytes);
}

int64_t ExtentSpace::free_bytes(int path) const {
  int64_t sum = 0;
  for (const auto& [offset, bytes] : free_[static_cast<size_t>(path)]) sum += bytes;
  return sum;
}

int64_t ExtentSpace::free_bytes() const {
  int64_t sum = 0;
  for (size_t path = 0; path < free_.size(); ++path) sum += free_bytes(static_cast<int>(path));
  return sum;
}

std::vector<Piece> ExtentSpace::take(int path, int64_t bytes) {
  std::vector<Piece> taken;
  const auto take_range = [&](size_t from, std::map<int64_t, int64_t>::iterator range, int64_t count) {
    Piece piece{static_cast<int>(from), range->first, count, 0};
    const auto [offset, length] = *range;
    free_[from].erase(range);
    if (length > count) free_[from].emplace(offset + count, length - count);
    held_[{piece.path, piece.offset}] = {count, 1};
    taken.push_back(piece);
    bytes -= count;
  };
  for (size_t turn = 0; turn < free_.size() && bytes > 0; ++turn) {
    const size_t from = (static_cast<size_t>(path) + turn) % free_.size();
    const auto whole =
        std::find_if(free_[from].begin(), free_[from].end(), [&](const auto& range) { return range.second >= bytes; });
    if (whole != free_[from].end()) take_range(from, whole, bytes);
    while (bytes > 0 && !free_[from].empty())
      take_range(from, free_[from].begin(), std::min(bytes, free_[from].begin()->second));
  }
  SLUICE_CHECK(bytes == 0, "the swap files were reserved too small");
  return taken;
}

void ExtentSpace::take_exactly(const Piece& piece) {
  auto& ranges = free_[static_cast<size_t>(piece.path)];
  auto range = ranges.upper_bound(piece.offset);
  SLUICE_CHECK(range != ranges.begin(), "a checkpoint's piece lies in no swap file");
  --range;
  const auto [offset, bytes] = *range;
  const int64_t end = offset + bytes, stop = piece.offset + piece.bytes;
  SLUICE_CHECK(stop <= end, "a checkpoint's piece lies in another's");
  ranges.erase(range);
  if (offset < piece.offset) ranges.emplace(offset, piece.offset - offset);
  if (stop < end) ranges.emplace(stop, end - stop);
}

ExtentSpace::Held& ExtentSpace::held_at(const Piece& piece) {
  const auto found = held_.find({piece.path, piece.offset});
  SLUICE_CHECK(found != held_.end() && found->second.bytes == piece.bytes, "a piece that nobody holds");
  return found->second;
}

void ExtentSpace::hold(std::span<const Piece> pieces) {
  for (const Piece& piece : pieces) {
    if (const auto found = held_.find({piece.path, piece.offset}); found == held_.end()) {
      take_exactly(piece);
      held_[{piece.path, piece.offset}] = {piece.bytes, 1};
    } else {
      ++held_at(piece).holders;
    }
  }
}

void ExtentSpace::release(std::span<const Piece> pieces) {
  for (const Piece& piece : pieces) {
    if (--held_at(piece).holders > 0) continue;
    held_.erase({piece.path, piece.offset});
    add(piece.path, piece.offset, piece.bytes);
  }
}

bool ExtentSpace::is_shared(std::span<const Piece> pieces) const {
  return std::any_of(pieces.begin(), pieces.end(), [&](const Piece& piece) {
    const auto found = held_.find({piece.path, piece.offset});
    return found != held_.end() && found->second.holders > 1;
  });
}

int64_t ExtentSpace::held_bytes() const {
  int64_t sum = 0;
  for (const auto& [place, held] : held_) sum += held.bytes;
  return sum;
}

}  // namespace sluice::swap
