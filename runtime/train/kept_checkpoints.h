// The checkpoints whose bytes a running job's swap files hold: frozen while their folders are there, released after.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/train/config.h"
#include "runtime/train/job.h"
#include "runtime/train/output_folder.h"
#include "runtime/train/swap_files.h"
#include "swap/swap_engine.h"

namespace sluice::train {

// How many such checkpoints a job keeps, beside the set that it trains. Where the user sets no save_total_limit it is
// one. Jobs that write copies have none.
int checkpoint_sets(const Config& config);
// Whether what a job trains on disk is saved by manifests.
bool saves_manifests(const Config& config);

// Removes all but the newest `limit` of a job that does not run (0: keeps all). Throws RunError.
void prune_checkpoints(const Config& config, int64_t limit, const SpacePatience& patience);

class KeptCheckpoints {
 public:
  using Places = std::map<std::string, std::vector<swap::Piece>>;  // by buffer

  // Adopts what lies in the swap files already; all must outlive it. Before extents are created. Throws RunError.
  KeptCheckpoints(const Job& job, const OutputFolder& output, swap::SwapEngine& swap, const SpacePatience& patience);
  ~KeptCheckpoints();  // the swap files stay unless it is known that no checkpoint needs them
  KeptCheckpoints(const KeptCheckpoints&) = delete;
  KeptCheckpoints& operator=(const KeptCheckpoints&) = delete;

  // Of a checkpoint in place that is resumed: extents of the same name and length go on where it has them.
  const Places& places() const { return places_; }
  void extents_created();
  // What it has in other places, which stays until the next checkpoint.
  Bytes beside() const { return beside_; }

  // Before the first byte of `folder` is written, whatever becomes of that: its bytes are frozen.
  void saving(const std::filesystem::path& folder, std::span<const swap::ExtentId> extents);
  // It is committed. Those beyond save_total_limit are removed, and their pieces are free. Throws RunError.
  void saved();
  // The same where `from` was renewed: the bytes are those that it names. Throws RunError.
  void renewed(const std::filesystem::path& folder, const std::filesystem::path& from);
  // `folder` was written and names no bytes of swap files: the same of the others. Throws RunError.
  void copied(const std::filesystem::path& folder);
  // A checkpoint in place ends here, on the drive before anything is written in its place. Throws RunError.
  void before_writing();

 private:
  struct Kept {
    std::filesystem::path folder;
    std::optional<swap::FrozenId> frozen;  // of one in place: what lies elsewhere, if anything
    bool in_place = false;                 // the run trains in its bytes
  };
  void find_places(const HeldCheckpoint& held, const HeldPieces& others);
  bool may_be_there(const Kept& kept) const;
  void forget_replaced();
  void keep_newest();
  void drop(const Kept& kept);
  void drop_others();

  const Job& job_;
  const Config& config_;
  const SwapPlace& place_;
  const OutputFolder& output_;
  swap::SwapEngine& swap_;
  const SpacePatience patience_;
  std::vector<Kept> kept_;  // oldest first
  Places places_;
  std::optional<swap::FrozenId> adopted_in_place_;
  std::vector<swap::Piece> elsewhere_;
  std::vector<swap::Piece> in_place_;  // of the newest checkpoint in place: held by its extents alone
  Bytes beside_;
};

}  // namespace sluice::train
