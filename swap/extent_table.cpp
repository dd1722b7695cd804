#include "swap/extent_table.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/core/check.h"

namespace sluice::swap {
namespace {

constexpr int64_t kBlockBytes = 4096;

}  // namespace

ExtentTable::ExtentTable(const SwapOptions& options)
    : request_bytes_(options.request_bytes.count),
      stripe_bytes_(options.stripe_bytes.count),
      patience_(options.patience),
      space_(options.nvme_paths.size()),
      keeps_files_(options.adopts) {
  SLUICE_CHECK(!options.nvme_paths.empty(), "at least one nvme_path");
  for (const auto& path : options.nvme_paths) {
    files_.push_back(
        std::make_unique<SwapFile>(path, options.file_name, options.adopts ? OldFile::adopt : OldFile::replace));
    space_.add(paths() - 1, 0, files_.back()->bytes());
  }
}

void ExtentTable::leave_files() {
  for (const Extent& extent : extents_) space_.release(extent.pieces);
  for (int path = 0; path < paths(); ++path)
    files_[static_cast<size_t>(path)]->keep(keeps_files_, space_.free_ranges(path));
}

ExtentId ExtentTable::create(Bytes bytes, std::string_view tag) {
  SLUICE_CHECK(bytes.count > 0, "an empty extent");
  const auto id = static_cast<ExtentId>(extents_.size());
  const std::vector<Piece> stripes = stripes_of(id, bytes.count);
  std::vector<int64_t> share(files_.size(), 0);
  for (const Piece& stripe : stripes) share[static_cast<size_t>(stripe.path)] += stripe.bytes;
  for (int path = 0; path < paths(); ++path)
    extend(path, share[static_cast<size_t>(path)] - space_.free_bytes(path), tag);
  extents_.push_back({bytes.count, false, take_places(stripes)});
  return id;
}

ExtentId ExtentTable::create_at(Bytes bytes, std::span<const Piece> pieces) {
  space_.hold(pieces);
  extents_.push_back({bytes.count, true, {pieces.begin(), pieces.end()}});
  return static_cast<ExtentId>(extents_.size() - 1);
}

// What an extent is cut into, on which path each; not where.
std::vector<Piece> ExtentTable::stripes_of(ExtentId id, int64_t bytes) const {
  const int64_t rounded = round_up(bytes, kBlockBytes);
  const int64_t stripe = std::min(paths() == 1 ? request_bytes_ : round_up(stripe_bytes_, kBlockBytes), request_bytes_);
  std::vector<Piece> stripes;
  int turn = id % paths();
  for (int64_t at = 0; at < rounded; at += stripe, turn = (turn + 1) % paths())
    stripes.push_back({turn, 0, std::min(stripe, rounded - at), 0});
  return stripes;
}

std::vector<Piece> ExtentTable::take_places(const std::vector<Piece>& stripes) {
  std::vector<Piece> places;
  for (const Piece& stripe : stripes)
    for (const Piece& taken : space_.take(stripe.path, stripe.bytes)) places.push_back(taken);
  return places;
}

void ExtentTable::extend(int path, int64_t bytes, std::string_view tag) {
  if (bytes <= 0) return;
  space_.add(path, files_[static_cast<size_t>(path)]->reserve(bytes, tag), bytes);
}

void ExtentTable::reserve(Bytes spare, std::string_view tag) {
  const int64_t missing = spare.count - space_.free_bytes();
  const int64_t each = round_up((missing + paths() - 1) / paths(), kBlockBytes);
  for (int path = 0; path < paths(); ++path) extend(path, each, tag);
}

std::span<Piece> ExtentTable::begin_write(ExtentId id) {
  Extent& extent = extents_[static_cast<size_t>(id)];
  if (space_.is_shared(extent.pieces)) {
    std::vector<Piece> places = take_places(stripes_of(id, extent.bytes));
    space_.release(extent.pieces);
    extent.pieces = std::move(places);
  }
  extent.written = true;
  return extent.pieces;
}

std::span<Piece> ExtentTable::begin_read(ExtentId id) {
  Extent& extent = extents_[static_cast<size_t>(id)];
  SLUICE_CHECK(extent.written, "an extent is read before it was written");
  return extent.pieces;
}

FrozenId ExtentTable::freeze(std::vector<Piece> pieces) {
  space_.hold(pieces);
  frozen_.push_back(std::move(pieces));
  return static_cast<FrozenId>(frozen_.size() - 1);
}

FrozenId ExtentTable::freeze(std::span<const ExtentId> extents) {
  std::vector<Piece> pieces;
  for (const ExtentId id : extents) {
    SLUICE_CHECK(is_written(id), "an extent is frozen before it was written");
    pieces.insert(pieces.end(), at(id).pieces.begin(), at(id).pieces.end());
  }
  return freeze(std::move(pieces));
}

void ExtentTable::release(FrozenId frozen) { space_.release(std::exchange(frozen_[static_cast<size_t>(frozen)], {})); }

Result<void> ExtentTable::sync() const {
  for (const auto& file : files_)
    if (Result<void> synced = sync(*file); !synced.ok()) return synced;
  return {};
}

Result<void> ExtentTable::sync(SwapFile& file) const {
  SpaceWait wait(patience_);
  for (;;) {
    const int failed = [&] {
      const WatchedCall call(patience_.watch.get(), "the sync of " + file.path().string());
      return file.sync();
    }();
    if (failed == 0) break;
    // What O_DIRECT wrote is on the drive already; the page cache forgets what found no room there.
    if (!is_no_space(failed) || !file.direct())
      return Error{is_no_space(failed) ? ErrorCode::no_space : ErrorCode::io,
                   "cannot bring " + file.path().string() + " to the drive: " + std::strerror(failed),
                   failed == ENOENT ? "was the swap folder removed, or its drive unmounted?"
                                    : "check the drive, and what is free there"};
    if (std::optional<Error> refused = wait.refused_then_wait(file.path(), Bytes{kBlockBytes})) return *refused;
  }
  wait.made_room();
  return {};
}

}  // namespace sluice::swap
