// A swap engine's extents: which pieces of which swap file each one has, and which of them checkpoints hold.
#pragma once

#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/result.h"
#include "runtime/core/units.h"
#include "swap/extent_space.h"
#include "swap/extent_store.h"
#include "swap/swap_engine.h"

namespace sluice::swap {

// As SwapEngine promises of the functions of these names. The driver's alone, but for the pieces of a transfer.
class ExtentTable {
 public:
  explicit ExtentTable(const SwapOptions& options);
  ExtentTable(const ExtentTable&) = delete;
  ExtentTable& operator=(const ExtentTable&) = delete;

  ExtentId create(Bytes bytes, std::string_view tag);
  ExtentId create_at(Bytes bytes, std::span<const Piece> pieces);
  void reserve(Bytes spare, std::string_view tag);

  FrozenId freeze(std::vector<Piece> pieces);
  FrozenId freeze(std::span<const ExtentId> extents);
  void release(FrozenId frozen);
  Result<void> sync() const;
  void keep_files(bool keeps) { keeps_files_ = keeps; }
  // The end: the files stay where keep_files says so, without what nobody holds; else they go. Not for an engine that
  // could not start: what checkpoints name is not held yet.
  void leave_files();

  int64_t bytes(ExtentId extent) const { return at(extent).bytes; }  // as asked
  bool is_written(ExtentId extent) const { return at(extent).written; }
  std::span<const Piece> pieces(ExtentId extent) const { return at(extent).pieces; }
  // What a write goes to, which is free places where a checkpoint holds the extent's own. Their address stays until
  // its next write.
  std::span<Piece> begin_write(ExtentId extent);
  std::span<Piece> begin_read(ExtentId extent);

  int paths() const { return static_cast<int>(files_.size()); }
  const SwapFile& file(int path) const { return *files_[static_cast<size_t>(path)]; }
  Bytes held() const { return {space_.held_bytes()}; }

 private:
  struct Extent {
    int64_t bytes = 0;
    bool written = false;
    std::vector<Piece> pieces;
  };
  const Extent& at(ExtentId extent) const { return extents_[static_cast<size_t>(extent)]; }
  std::vector<Piece> stripes_of(ExtentId id, int64_t bytes) const;
  std::vector<Piece> take_places(const std::vector<Piece>& stripes);
  void extend(int path, int64_t bytes, std::string_view tag);
  Result<void> sync(SwapFile& file) const;

  const int64_t request_bytes_, stripe_bytes_;
  const SpacePatience patience_;
  std::vector<std::unique_ptr<SwapFile>> files_;
  ExtentSpace space_;
  std::deque<Extent> extents_;             // pieces keep their address while in flight
  std::deque<std::vector<Piece>> frozen_;  // by FrozenId; empty: released
  bool keeps_files_;
};

}  // namespace sluice::swap
