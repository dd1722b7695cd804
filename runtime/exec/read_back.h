// Trained groups, brought to the host from wherever the plan keeps them between phases, for saving; and changed there.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/exec/device.h"
#include "runtime/exec/watchdog.h"
#include "runtime/plan/planner.h"
#include "swap/swap_engine.h"

namespace sluice::exec {

// Weights come whole, states chunk by chunk, as they lie in memory (group_chunk.h). The spans end with the call.
using WeightsSink = std::function<void(int group, std::span<const std::byte> weights)>;
using StatesSink = std::function<void(int group, int64_t begin, int64_t end, std::span<const std::byte> states)>;
// The same, to be changed.
using WeightsChange = std::function<void(std::span<std::byte> weights)>;
using StatesChange = std::function<void(int64_t begin, int64_t end, std::span<std::byte> states)>;

// What is brought: all, or only what lies in memory, the host's or a device's.
enum class ReadBackOf : uint8_t { everything, memory };

// An extent of a trained group: its weights, or the states of elements [begin, end).
struct TrainedExtent {
  std::string name;  // the buffer's
  int group = 0;
  plan::Tag content = plan::Tag::weights;  // or states
  int64_t begin = 0, end = 0;
  int64_t bytes = 0;
  swap::ExtentId extent = 0;
};

class ReadBack {
 public:
  // All must outlive this; `memory`: of the device's and the host's arenas. Nothing may be in flight.
  ReadBack(const plan::JobShape& shape, const plan::Planned& planned, swap::SwapEngine& swap,
           const std::map<plan::BufferId, swap::ExtentId>& extents, Device& device,
           std::array<std::span<std::byte>, 2> memory, const Watchdog& watchdog)
      : shape_(shape),
        planned_(planned),
        swap_(swap),
        extents_(extents),
        device_(device),
        memory_(memory),
        watchdog_(watchdog) {}

  // Every trained group in order, of the newest of two sets (`odd` as in plan::Phase). What a sink is empty for is not
  // read. Blocks. Throws RunError.
  void run(bool odd, ReadBackOf of, const WeightsSink& weights, const StatesSink& states);
  // Of one trained group.
  void weights(int group, bool odd, const WeightsSink& sink);
  // Weights of one trained group, and the states of each chunk that has elements of [first, last), are changed and put
  // back; states where there is a change for them. Blocks. Throws RunError; some of it may have been put back then.
  void change(int group, bool odd, int64_t first, int64_t last, const WeightsChange& weights,
              const StatesChange& states);
  // Those of the newest set.
  std::vector<TrainedExtent> extents(bool odd) const;

 private:
  // Of a chunk of states: [begin, end), the chunk's number.
  struct Chunk {
    int64_t number = 0, begin = 0, end = 0;
  };
  std::span<std::byte> bring_weights(int g, int set);
  std::span<std::byte> bring_states(int g, int set, const Chunk& chunk);
  void put_weights(int g, int set);
  void put_states(int g, int set, const Chunk& chunk);
  template <class Act>
  void for_each_chunk(int g, const Act& act) const;
  std::span<std::byte> bytes_of(plan::BufferId id, int64_t offset, int64_t bytes) const;
  void from_device(plan::BufferId from, int64_t offset, std::span<std::byte> to);
  void to_device(std::span<const std::byte> from, plan::BufferId to, int64_t offset);
  void fetch(plan::BufferId extent, plan::BufferId into);
  void store(plan::BufferId from, plan::BufferId extent);
  void wait_for(const char* lane, const char* what);

  const plan::JobShape& shape_;
  const plan::Planned& planned_;
  swap::SwapEngine& swap_;
  const std::map<plan::BufferId, swap::ExtentId>& extents_;
  Device& device_;
  std::array<std::span<std::byte>, 2> memory_;
  const Watchdog& watchdog_;
};

}  // namespace sluice::exec
