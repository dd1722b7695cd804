// Runs verified schedules: one driver thread (the caller's) issues each op on its lane once its dependencies have
// ended, and reads every result. Arithmetic order is the schedule's, whatever the timing.
//
// Threads: `compute` (one, which owns LibTorch's intra-op pool), `optim` workers, `h2d` and `d2h` (separate memory
// only), the swap engine's own. `run` blocks until the phase has ended on all of them.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/program.h"
#include "optim/adamw.h"
#include "runtime/exec/device.h"
#include "runtime/exec/read_back.h"
#include "runtime/exec/source_table.h"
#include "runtime/exec/watchdog.h"
#include "runtime/plan/machine_profile.h"
#include "runtime/plan/planner.h"
#include "runtime/plan/simulate.h"
#include "swap/swap_engine.h"

namespace sluice::exec {

struct ExecutorOptions {
  int optimizer_threads = 0;  // 0: one per core
  // Makes the device of a GPU; empty: threads of this process compute and copy.
  std::function<std::unique_ptr<Device>(Bytes memory, EventQueue& events, const PhaseClock& clock)> make_device;
  // Emulated device: copies take at least bytes / rate. 0: as fast as memory allows.
  BytesPerSecond h2d, d2h;
  // Compute ops take the time that they are planned with and compute nothing; losses are zero.
  bool compute_waits = false;
  WatchdogOptions watchdog;
  // Of a checkpoint in place, by buffer: extents that lie there already.
  std::map<std::string, std::vector<swap::Piece>> places;
};

// What a phase needs beside the schedule.
struct PhaseInputs {
  std::span<const models::MicroBatch> micro_batches;
  // Of the step before, for updates before forward, and of this very step, for those behind backward. weight_decay
  // applies to decayed parameters only.
  optim::AdamWSettings update, early_update;
  WhenNotFinite when_not_finite = WhenNotFinite::fails;
  // Of a restore: what lies in ExecutorOptions::places stays, byte for byte what a checkpoint names.
  bool restores_in_place = false;
  // Told of each op that has ended, on the driver's thread; empty: nobody.
  std::function<void(plan::OpId)> op_ended = {};
};

struct PhaseResult {
  std::vector<double> loss_sums;                  // per micro-batch: sum of -log p over supervised tokens
  double squared_gradient_norm = 0;               // over all groups, added in group order
  std::optional<Error> bad_output, bad_gradient;  // the first that was not finite, where that is only reported
  double seconds = 0;
  std::vector<plan::Slice> ops;  // when each op ran, from the phase's start
};

// Where the job's first weights and, when resuming, its states come from.
struct JobSources {
  std::vector<std::filesystem::path> files;
  std::vector<GroupSource> weights;  // per group; file indices into `files`
  std::vector<StateSource> states;   // per group, when resuming; else empty
};

class Executor {
 public:
  // Allocates every arena and extent. `model` and `planned` must outlive it. Throws SetupError.
  Executor(const models::Model& model, const plan::JobShape& shape, const plan::Planned& planned, JobSources sources,
           swap::SwapEngine& swap, const ExecutorOptions& options);
  ~Executor();

  // Throws RunError, after all lanes have come to rest, when any op failed. Nothing may be run afterwards.
  PhaseResult run(const plan::Schedule& schedule, const PhaseInputs& inputs);

  // After a flush: what was trained, for saving (read_back.h).
  void read_back(bool odd, ReadBackOf of, const WeightsSink& weights, const StatesSink& states);
  // The same of one trained group's weights.
  void read_weights(int group, bool odd, const WeightsSink& sink);
  // Changes elements [first, last) of one trained group (ReadBack::change).
  void change(int group, bool odd, int64_t first, int64_t last, const WeightsChange& weights,
              const StatesChange& states);
  // The part of it that lies on disk, of the newest set.
  std::vector<TrainedExtent> trained_extents(bool odd) const;

  // What the machine did not let it have, for people.
  const std::vector<std::string>& notes() const;
  Bytes high_water(Tier tier) const;
  int64_t arena_allocations() const;  // slabs allocated so far: constant after construction

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::exec
