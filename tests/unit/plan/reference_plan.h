// A plan run by the reference interpreter the way that training runs it: every phase in program order, from loading to
// the last update. What mutations of its phases are compared with.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "runtime/plan/verify.h"
#include "tests/unit/plan/reference_interpreter.h"

namespace sluice::plan {

// Every run is compared with the reference on the same garbage in unwritten memory.
inline constexpr uint64_t kGarbages = 3;

class ReferencePlan {
 public:
  struct Before {
    Settings settings;
    std::array<LastingMemory, kGarbages> memory;
    std::array<RunResult, kGarbages> expected;
  };

  // Asks `planned` for the phases that it has not foreseen. Fails the test when a phase fails or computes something
  // from garbage.
  ReferencePlan(const RandomJob& job, Planned& planned);

  // Safe and right.
  Result<void> verify(const Phase& phase) const;
  Stage stage(const Phase& phase) const;

  const RandomJob& job;
  const Planned& planned;
  Homes homes;
  std::map<Phase, Before> phases;        // that were run; the first time
  std::vector<Observed> observed;        // by steps and evaluations, in order
  std::map<std::string, Pages> trained;  // weights and states of every trained group in the end, wherever they are

 private:
  // As in the trainer: what is pending, and where the newest weights and states are.
  struct Progress {
    bool pending = false, early_pending = false;
    bool states_stored = false, weights_stored = false;
    bool early_states_stored = false, early_weights_stored = false;
    bool odd = false;
    uint64_t settings = 0;
  };

  void train();
  void run(const Phase& phase, const Settings& settings);
  void step(bool clipped, bool speculates);
  void evaluate() { run(phase_of(PhaseKind::evaluate), {}); }
  void flush();
  void updated();
  Phase phase_of(PhaseKind kind) const;
  void find_trained();
  Pages states_of(int group, int set) const;
  const Pages& pages_of(const BufferName& buffer) const;

  Planned& asked_;
  Progress progress_;
  uint64_t steps_ = 0;
  std::array<LastingMemory, kGarbages> memory_;
};

}  // namespace sluice::plan
