// Differential test of verify: what the reference interpreter finds harmful, verify must reject; what a planner makes,
// verify must accept. SLUICE_MUTATIONS and SLUICE_SEED set how many and which; SLUICE_ALARMS lists the false alarms.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <set>

#include "runtime/plan/verify.h"
#include "tests/unit/plan/mutate.h"
#include "tests/unit/plan/random_plan.h"
#include "tests/unit/plan/reference_plan.h"

#ifndef SLUICE_MUTATIONS_DEFAULT
#define SLUICE_MUTATIONS_DEFAULT 10000
#endif

namespace sluice::plan {
namespace {

constexpr int kMutationsPerPlan = 25;
constexpr uint64_t kPlansPerJob = 4;

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}
uint64_t base_seed() { return from_environment("SLUICE_SEED", 7); }
uint64_t mutations_wanted() { return from_environment("SLUICE_MUTATIONS", SLUICE_MUTATIONS_DEFAULT); }
// Both tests go through the same jobs.
uint64_t jobs_wanted() { return std::max<uint64_t>(mutations_wanted() / (kMutationsPerPlan * kPlansPerJob), 40); }
uint64_t seed_of(uint64_t job) { return base_seed() * 1'000'003 + job; }

// --- what is right is accepted -------------------------------------------------------------------------------------

// What the jobs differ in.
class Coverage {
 public:
  void add(const JobShape& shape, const Plan& plan) {
    const bool full = std::all_of(shape.groups.begin(), shape.groups.end(), [](const auto& g) { return g.trainable; });
    seen_.insert(full ? "full" : "adapters");
    seen_.insert(plan.memory == DeviceMemory::unified ? "unified" : "separate");
    seen_.insert("micro-batches " + std::to_string(shape.micro_batches));
    for (const GroupPlan& group : plan.groups) {
      seen_.insert("weights " + std::string(name_of(group.weights)));
      seen_.insert("states " + std::string(name_of(group.states)));
      seen_.insert("gradients " + std::string(name_of(group.gradients)));
      if (group.update == UpdateTime::behind_backward) seen_.insert(plan.undoable ? "undoable" : "at once");
    }
    for (const BlockPlan& block : plan.blocks) {
      seen_.insert("boundary " + std::string(name_of(block.input)));
      for (const SlotFate fate : block.slots) seen_.insert("slot " + std::string(name_of(fate)));
    }
  }
  // 2 kinds, 2 memories, 1 to 8 micro-batches, 3 + 2 + 2 residences, 2 early updates, 3 + 4 fates.
  void expect_all() const {
    std::string all;
    for (const std::string& each : seen_) all += (all.empty() ? "" : ", ") + each;
    EXPECT_EQ(seen_.size(), 2u + 2 + 8 + 3 + 3 + 3 + 2 + 3 + 4) << all;
  }

 private:
  std::set<std::string> seen_;
};

void expect_same_under_any_timing(const ReferencePlan& plan, const Phase& phase, Random& random) {
  const ReferencePlan::Before& before = plan.phases.at(phase);
  Interpreter interpreter(plan.planned.schedules.at(phase), plan.stage(phase));
  EXPECT_EQ(interpreter.run(before.memory[0], 0, {}, random), before.expected[0]);
  EXPECT_TRUE(interpreter.unordered_conflicts().empty());
  for (const auto mood : {Timing::any, Timing::overlapping, Timing::one_at_a_time})
    EXPECT_EQ(interpreter.run(before.memory[1], 1, {mood}, random), before.expected[1]);
}

TEST(VerifyMutations, EveryPlanIsAcceptedAndComputesTheSameUnderAnyTiming) {
  std::printf("seed %llu, %llu jobs\n", static_cast<unsigned long long>(base_seed()),
              static_cast<unsigned long long>(jobs_wanted()));
  Coverage coverage;
  std::set<std::string> different;
  size_t plans = 0, schedules = 0, runs = 0, ops_most = 0;
  for (uint64_t j = 0; j < jobs_wanted() && !HasFailure(); ++j) {
    RandomJob job = random_job(seed_of(j));
    Random random(j);
    std::optional<std::pair<std::map<std::string, Pages>, std::vector<Observed>>> first;
    for (Planned& planned : job.plans) {
      const std::string text = to_yaml(planned.plan, job.shape);
      SCOPED_TRACE("job " + std::to_string(j) + "\n" + text);
      ReferencePlan plan(job, planned);
      if (HasFailure()) return;
      for (const auto& [phase, schedule] : planned.schedules) {
        const Result<void> proof = plan.verify(phase);
        EXPECT_TRUE(proof.ok()) << proof.error().message;
        ops_most = std::max(ops_most, schedule.ops.size());
      }
      for (const auto& [phase, before] : plan.phases) expect_same_under_any_timing(plan, phase, random);
      coverage.add(job.shape, planned.plan);
      different.insert(std::to_string(j) + text);
      schedules += planned.schedules.size();
      runs += plan.phases.size();
      ++plans;
      if (!first) first.emplace(plan.trained, plan.observed);
      EXPECT_TRUE(plan.trained == first->first) << "trains another model than the job's first plan";
      EXPECT_TRUE(plan.observed == first->second) << "has other losses or norms than the job's first plan";
    }
  }
  coverage.expect_all();
  EXPECT_GT(different.size(), 3 * plans / 4) << "the plans of a job must differ";
  std::printf("%zu plans, %zu of them different; %zu schedules of up to %zu ops accepted, %zu run in 4 timings\n",
              plans, different.size(), schedules, ops_most, runs);
}

// --- what is wrong is rejected ---------------------------------------------------------------------------------------

bool differs(Interpreter& interpreter, const ReferencePlan::Before& before, uint64_t garbage, const Timing& timing,
             Random& random) {
  return !(interpreter.run(before.memory[garbage], garbage, timing, random) == before.expected[garbage]);
}

// In some execution the result differs, the executor stalls, or a tier is overrun.
bool harmful(const ReferencePlan& plan, const Phase& phase, const Mutated& mutated, Random& random) {
  constexpr size_t kPairsMost = 12;
  const ReferencePlan::Before& before = plan.phases.at(phase);
  Interpreter interpreter(mutated.schedule,
                          {mutated.buffers, mutated.capacity, plan.job.shape, phase, before.settings});
  if (differs(interpreter, before, 0, {}, random)) return true;
  auto pairs = interpreter.unordered_conflicts();
  std::shuffle(pairs.begin(), pairs.end(), random);
  pairs.resize(std::min(pairs.size(), kPairsMost));
  for (const auto& [first, second] : pairs) {
    if (differs(interpreter, before, 1, {Timing::in_turn, kNone, first}, random)) return true;
    if (differs(interpreter, before, 2, {Timing::in_turn, first, kNone}, random)) return true;
    if (differs(interpreter, before, 1, {Timing::any, first, second}, random)) return true;
  }
  for (const auto mood : {Timing::any, Timing::overlapping, Timing::one_at_a_time})
    if (differs(interpreter, before, 1, {mood}, random)) return true;
  return false;
}

Result<void> judge(const ReferencePlan& plan, const Phase& phase, const Mutated& mutated) {
  const auto judged = [&](const Homes& homes) {
    return verify(mutated.schedule, mutated.buffers, mutated.capacity, plan.job.shape, plan.planned.plan, phase, homes);
  };
  if (!mutated.buffers_changed) return judged(plan.homes);
  const Result<Homes> homes = homes_of(plan.planned.schedules, mutated.buffers, plan.job.shape, plan.planned.plan);
  return homes.ok() ? judged(homes.value()) : Result<void>(homes.error());
}

struct Count {
  int tried = 0, harmful = 0, missed = 0, rejected = 0, false_alarms = 0;
  int accepted() const { return tried - rejected; }
  Count& operator+=(const Count& other) {
    tried += other.tried;
    harmful += other.harmful;
    missed += other.missed;
    rejected += other.rejected;
    false_alarms += other.false_alarms;
    return *this;
  }
};

class Tally {
 public:
  Count& operator[](Mutation mutation) { return counts_[static_cast<size_t>(mutation)]; }
  void alarm(Mutation mutation, const std::string& what) { ++alarms_[std::string(name_of(mutation)) + ": " + what]; }

  void print() const {
    std::printf("%-22s %7s %8s %7s %9s %13s %9s\n", "mutation", "tried", "harmful", "missed", "rejected",
                "false alarms", "accepted");
    Count all;
    for (int m = 0; m < kMutationCount; ++m) {
      print(name_of(static_cast<Mutation>(m)), counts_[static_cast<size_t>(m)]);
      all += counts_[static_cast<size_t>(m)];
    }
    print("all", all);
    if (std::getenv("SLUICE_ALARMS") != nullptr)
      for (const auto& [what, times] : alarms_) std::printf("%5d %s\n", times, what.c_str());
  }

  // A check that finds no harm, or a verify that rejects everything, would pass otherwise. Percent of what was tried.
  void expect_telling() const {
    Count all;
    for (int m = 0; m < kMutationCount; ++m) {
      const Count& count = counts_[static_cast<size_t>(m)];
      const Expected expected = expected_of(static_cast<Mutation>(m));
      all += count;
      if (count.tried < 200) continue;
      EXPECT_GE(100 * count.harmful, expected.harmful_least * count.tried) << name_of(static_cast<Mutation>(m));
      EXPECT_LE(100 * count.false_alarms, expected.alarms_most * count.tried) << name_of(static_cast<Mutation>(m));
    }
    EXPECT_GE(10 * all.accepted(), all.tried) << "hardly anything is accepted";
  }

 private:
  struct Expected {
    int harmful_least, alarms_most;
  };
  // verify is exact about what leaves nothing wrong but what it does. What an op says of itself (its lane, its lengths,
  // its accesses, its order in the list) it takes at its word, and rejects what is wrong even where nobody looks at it.
  static Expected expected_of(Mutation mutation) {
    switch (mutation) {
      case Mutation::drop_dependency:
      case Mutation::drop_all_dependencies:
      case Mutation::shrink_tier:
        return {30, 1};
      case Mutation::swap_places:
      case Mutation::free_early:
      case Mutation::drop_op:
      case Mutation::flip_accumulate:
        return {70, 1};
      case Mutation::relabel:
      case Mutation::two_at_once:
        return {60, 20};
      case Mutation::swap_ops:
      case Mutation::move_buffer:
      case Mutation::duplicate_op:
        return {35, 60};
      case Mutation::shift_range:
        return {25, 75};
      case Mutation::change_lane:
      case Mutation::resize_buffer:
      case Mutation::change_access:
        break;
    }
    return {4, 96};
  }
  static void print(std::string_view name, const Count& count) {
    std::printf("%-22s %7d %8d %7d %9d %13d %9d\n", std::string(name).c_str(), count.tried, count.harmful, count.missed,
                count.rejected, count.false_alarms, count.accepted());
  }

  std::array<Count, kMutationCount> counts_;
  std::map<std::string, int> alarms_;
};

// One mutation after another of the phases of a plan, of all kinds in turn.
class Trial {
 public:
  Trial(Tally& tally, uint64_t seed) : tally_(tally), random_(seed) {}

  uint64_t done() const { return done_; }
  bool failed() const { return missed_ >= 10; }

  void mutate_once(const ReferencePlan& plan) {
    std::vector<Phase> phases;
    for (const auto& [phase, before] : plan.phases) phases.push_back(phase);
    const Phase phase = pick(random_, phases);
    const auto kind = static_cast<Mutation>(done_ % kMutationCount);
    const Planned& planned = plan.planned;
    const Schedule& schedule = planned.schedules.at(phase);
    const auto mutated = mutate(kind, schedule, planned.layout.buffers(), planned.memory.peak, random_);
    if (!mutated) return;
    ++done_;
    const Result<void> proof = judge(plan, phase, *mutated);
    const bool rejected = !proof.ok(), harm = harmful(plan, phase, *mutated, random_);
    tally_[kind] += {1, harm, harm && !rejected, rejected, rejected && !harm};
    if (rejected && !harm) tally_.alarm(kind, proof.error().message);
    if (rejected || !harm) return;
    ++missed_;
    ADD_FAILURE() << "mutation " << done_ << " of '" << schedule.name
                  << "' changes a result and is accepted: " << mutated->what << "\n"
                  << to_yaml(planned.plan, plan.job.shape) << to_table(schedule, planned.layout.buffers());
  }

 private:
  Tally& tally_;
  Random random_;
  uint64_t done_ = 0;
  int missed_ = 0;
};

TEST(VerifyMutations, EveryHarmfulMutationIsRejected) {
  std::printf("seed %llu, %llu mutations\n", static_cast<unsigned long long>(base_seed()),
              static_cast<unsigned long long>(mutations_wanted()));
  Tally tally;
  Trial trial(tally, base_seed());
  while (trial.done() < mutations_wanted() && !trial.failed()) {
    for (uint64_t j = 0; j < jobs_wanted(); ++j) {
      if (trial.done() >= mutations_wanted() || trial.failed()) break;
      RandomJob job = random_job(seed_of(j));
      for (Planned& planned : job.plans) {
        const ReferencePlan plan(job, planned);
        for (int i = 0; i < kMutationsPerPlan && trial.done() < mutations_wanted() && !trial.failed(); ++i)
          trial.mutate_once(plan);
      }
    }
  }
  tally.print();
  tally.expect_telling();
}

}  // namespace
}  // namespace sluice::plan
