// Differential test of verify: what the reference interpreter finds harmful, verify must reject; what a planner makes,
// verify must accept. SLUICE_MUTATIONS and SLUICE_SEED set how many and which; SLUICE_ALARMS lists the false alarms.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "runtime/plan/verify.h"
#include "tests/unit/plan/mutate.h"
#include "tests/unit/plan/random_plan.h"
#include "tests/unit/plan/reference_interpreter.h"

#ifndef SLUICE_MUTATIONS_DEFAULT
#define SLUICE_MUTATIONS_DEFAULT 10000
#endif

namespace sluice::plan {
namespace {

constexpr uint64_t kGarbages = 3;  // every run is compared with the reference on the same garbage
constexpr int kMutationsPerJob = 100;

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// What a phase needs to have happened before.
struct Condition {
  bool loaded, pending, states_stored, weights_stored;
  auto operator<=>(const Condition&) const = default;
};
bool loads(const Phase& phase) { return phase.kind == PhaseKind::load || phase.kind == PhaseKind::restore; }

// A lowered plan, and what each of its phases does to memory when it runs in program order.
class Base {
 public:
  struct Before {
    std::array<LastingMemory, kGarbages> memory;
    std::array<RunResult, kGarbages> expected;
  };

  Base(JobShape shape_in, Lowered lowered_in) : shape(std::move(shape_in)), lowered(std::move(lowered_in)) {
    Result<Homes> learnt = homes_of(lowered.schedules, lowered.buffers, shape, lowered.plan);
    if (!learnt.ok()) {
      ADD_FAILURE() << learnt.error().message;
      return;
    }
    homes = std::move(learnt.value());
    run_phases();
  }

  RunResult run(const Phase& phase, const LastingMemory& memory, uint64_t garbage) const {
    Random unused(0);
    return Interpreter(lowered.schedules.at(phase), lowered.buffers, lowered.capacity, shape, phase)
        .run(memory, garbage, {}, unused);
  }

  const JobShape shape;
  const Lowered lowered;
  Homes homes;
  std::map<Phase, Before> phases;
  std::map<Condition, std::array<LastingMemory, kGarbages>> reached;

 private:
  void run_phases() {
    std::array<LastingMemory, kGarbages> empty;
    for (uint64_t garbage = 0; garbage < kGarbages; ++garbage)
      for (const Buffer& buffer : lowered.buffers)
        empty[garbage].emplace_back(buffer.persistent ? static_cast<size_t>(buffer.bytes / 4096) : 0, ~garbage);
    reached[{false, false, false, false}] = empty;
    for (size_t before = 0; phases.size() < lowered.schedules.size(); before = phases.size()) {
      for (const auto& [phase, schedule] : lowered.schedules) {
        const auto from = reached.find(
            loads(phase) ? Condition{} : Condition{true, phase.pending, phase.states_stored, phase.weights_stored});
        if (phases.contains(phase) || from == reached.end()) continue;
        add(phase, from->second);
      }
      ASSERT_GT(phases.size(), before) << "a phase that nothing leads to";
    }
  }
  void add(const Phase& phase, const std::array<LastingMemory, kGarbages>& memory) {
    Before& before = phases[phase];
    before.memory = memory;
    std::array<LastingMemory, kGarbages> after;
    for (uint64_t garbage = 0; garbage < kGarbages; ++garbage) {
      before.expected[garbage] = run(phase, memory[garbage], garbage);
      ASSERT_EQ(before.expected[garbage].failure, "") << lowered.schedules.at(phase).name;
      after[garbage] = before.expected[garbage].lasting;
      EXPECT_EQ(before.expected[garbage].losses, before.expected[0].losses) << "depends on garbage";
      EXPECT_EQ(before.expected[garbage].norms, before.expected[0].norms) << "depends on garbage";
      expect_no_garbage(after[garbage], after[0], garbage);
    }
    reached.emplace(after_phase(phase), after);
  }
  static void expect_no_garbage(const LastingMemory& one, const LastingMemory& other, uint64_t garbage) {
    for (size_t b = 0; b < one.size(); ++b)
      for (size_t p = 0; p < one[b].size(); ++p)
        ASSERT_TRUE(one[b][p] == ~garbage || one[b][p] == other[b][p]) << "depends on garbage";
  }
  Condition after_phase(const Phase& phase) const {
    const bool updated = phase.pending && phase.kind != PhaseKind::evaluate;
    const bool states = phase.kind == PhaseKind::restore || phase.states_stored || updated;
    const bool resumes = lowered.schedules.begin()->first.kind == PhaseKind::restore;
    return {true, phase.kind == PhaseKind::train || (phase.pending && !updated), states || (loads(phase) && resumes),
            phase.weights_stored || updated};
  }
};

// Weights and states of every trained group after load, three steps and the last update, wherever they are.
std::vector<Pages> trained(const Base& base) {
  const LastingMemory& memory =
      base.phases.at({PhaseKind::flush, base.shape.micro_batches, true, true, true}).expected[0].lasting;
  std::map<std::string, size_t> by_name;
  for (size_t b = 0; b < base.lowered.buffers.size(); ++b) by_name[base.lowered.buffers[b].name] = b;
  std::vector<Pages> all;
  for (int g = 0; g < static_cast<int>(base.shape.groups.size()); ++g) {
    const GroupShape& group = base.shape.groups[static_cast<size_t>(g)];
    const GroupPlan& where = base.lowered.plan.groups[static_cast<size_t>(g)];
    if (!group.trainable) continue;
    all.push_back(memory[by_name.at(where.weights == Tier::disk ? weights_extent_name(g, 0)
                                                                : host_weights_name(where, group, g, 0))]);
    Pages states;
    if (where.states == Tier::host) {
      states = memory[by_name.at(host_states_name(g, 0))];
    } else {
      for (int64_t begin = 0, chunk = 0; begin < group.elements; begin += base.lowered.plan.chunk_elements, ++chunk) {
        const Pages& each = memory[by_name.at(states_extent_name(g, chunk, 0))];
        states.insert(states.end(), each.begin(), each.end());
      }
    }
    all.push_back(std::move(states));
  }
  return all;
}

Result<void> verify_base(const Base& base, const Phase& phase) {
  return verify(base.lowered.schedules.at(phase), base.lowered.buffers, base.lowered.capacity, base.shape,
                base.lowered.plan, phase, base.homes);
}

TEST(VerifyMutations, EveryPlanIsAcceptedAndComputesTheSameUnderAnyTiming) {
  const uint64_t seed = from_environment("SLUICE_SEED", 7);
  const uint64_t jobs = std::max<uint64_t>(from_environment("SLUICE_MUTATIONS", SLUICE_MUTATIONS_DEFAULT) / 250, 4);
  std::printf("seed %llu, %llu jobs\n", static_cast<unsigned long long>(seed), static_cast<unsigned long long>(jobs));
  int schedules = 0;
  size_t ops_most = 0;
  for (uint64_t job = 0; job < jobs && !HasFailure(); ++job) {
    SCOPED_TRACE("job " + std::to_string(job));
    Random random(seed * 1'000'003 + job);
    const JobShape shape = random_shape(random);
    const bool low_bits = pick(random, 0, 1) == 0, resumes = pick(random, 0, 1) == 0;
    std::optional<std::vector<Pages>> first;
    std::vector<std::string> plans;
    for (int arrangement = 0; arrangement < 3; ++arrangement) {
      const Base base(shape, lower(shape, random_plan(random, shape), low_bits, resumes));
      if (HasFailure()) return;
      plans.push_back(to_yaml(base.lowered.plan, shape));
      for (const auto& [phase, before] : base.phases) {
        const Schedule& schedule = base.lowered.schedules.at(phase);
        const Result<void> proof = verify_base(base, phase);
        ASSERT_TRUE(proof.ok()) << proof.error().message << "\n" << plans.back();
        Interpreter interpreter(schedule, base.lowered.buffers, base.lowered.capacity, shape, phase);
        EXPECT_EQ(interpreter.run(before.memory[0], 0, {}, random), before.expected[0]);
        EXPECT_TRUE(interpreter.unordered_conflicts().empty()) << schedule.name << "\n" << plans.back();
        for (const auto mood : {Timing::any, Timing::overlapping, Timing::one_at_a_time})
          EXPECT_EQ(interpreter.run(before.memory[1], 1, {mood}, random), before.expected[1]) << schedule.name << "\n"
                                                                                              << plans.back();
        ++schedules;
        ops_most = std::max(ops_most, schedule.ops.size());
      }
      if (!first) first = trained(base);
      EXPECT_EQ(trained(base), *first) << plans[0] << "\nbeside\n" << plans.back();
    }
    EXPECT_FALSE(plans[0] == plans[1] && plans[1] == plans[2]) << "the plans must differ";
  }
  std::printf("%d schedules of up to %zu ops accepted, each run in 4 timings\n", schedules, ops_most);
}

TEST(VerifyMutations, EveryChoiceOfThePlannerIsAccepted) {
  const uint64_t seed = from_environment("SLUICE_SEED", 7);
  const uint64_t jobs = std::max<uint64_t>(from_environment("SLUICE_MUTATIONS", SLUICE_MUTATIONS_DEFAULT) / 100, 10);
  for (uint64_t job = 0; job < jobs; ++job) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", job " + std::to_string(job));
    Random random(seed * 1'000'003 + job);
    const JobShape shape = random_shape(random);
    // Throws when a schedule is refused.
    PlanRequest request = random_request(random, shape);
    EXPECT_NO_THROW(make_plan(shape, request));
    request.update = UpdateTime::behind_backward;
    for (const bool clips : {false, true}) {
      request.clips = clips;
      EXPECT_NO_THROW(make_plan(shape, request)) << "updated behind backward" << (clips ? ", undoable" : "");
    }
  }
}

// --- mutations -----------------------------------------------------------------------------------------------------

bool differs(Interpreter& interpreter, const Base::Before& before, uint64_t garbage, const Timing& timing,
             Random& random) {
  return !(interpreter.run(before.memory[garbage], garbage, timing, random) == before.expected[garbage]);
}

// In some execution the result differs, the executor stalls, or a tier is overrun.
bool harmful(const Base& base, const Phase& phase, const Mutated& mutated, Random& random) {
  const Base::Before& before = base.phases.at(phase);
  Interpreter interpreter(mutated.schedule, mutated.buffers, mutated.capacity, base.shape, phase);
  if (differs(interpreter, before, 0, {}, random)) return true;
  auto pairs = interpreter.unordered_conflicts();
  std::shuffle(pairs.begin(), pairs.end(), random);
  pairs.resize(std::min<size_t>(pairs.size(), 12));
  for (const auto& [first, second] : pairs) {
    if (differs(interpreter, before, 1, {Timing::in_turn, kNone, first}, random)) return true;
    if (differs(interpreter, before, 2, {Timing::in_turn, first, kNone}, random)) return true;
    if (differs(interpreter, before, 1, {Timing::any, first, second}, random)) return true;
  }
  for (const auto mood : {Timing::any, Timing::overlapping, Timing::one_at_a_time})
    if (differs(interpreter, before, 1, {mood}, random)) return true;
  return false;
}

Result<void> judge(const Base& base, const Phase& phase, const Mutated& mutated) {
  if (!mutated.buffers_changed)
    return verify(mutated.schedule, mutated.buffers, mutated.capacity, base.shape, base.lowered.plan, phase,
                  base.homes);
  const Result<Homes> homes = homes_of(base.lowered.schedules, mutated.buffers, base.shape, base.lowered.plan);
  if (!homes.ok()) return homes.error();
  return verify(mutated.schedule, mutated.buffers, mutated.capacity, base.shape, base.lowered.plan, phase,
                homes.value());
}

struct Count {
  int tried = 0, harmful = 0, rejected = 0, false_alarms = 0;
  Count& operator+=(const Count& other) {
    tried += other.tried;
    harmful += other.harmful;
    rejected += other.rejected;
    false_alarms += other.false_alarms;
    return *this;
  }
};
using Counts = std::array<Count, kMutationCount>;

void print(const Counts& counts) {
  const auto row = [](std::string_view name, const Count& count) {
    std::printf("%-22s %7d %8d %9d %13d\n", std::string(name).c_str(), count.tried, count.harmful, count.rejected,
                count.false_alarms);
  };
  std::printf("%-22s %7s %8s %9s %13s\n", "mutation", "tried", "harmful", "rejected", "false alarms");
  Count all;
  for (int m = 0; m < kMutationCount; ++m) {
    row(name_of(static_cast<Mutation>(m)), counts[static_cast<size_t>(m)]);
    all += counts[static_cast<size_t>(m)];
  }
  row("all", all);
}

// Mutations that leave nothing wrong but what they do: verify is exact about them.
bool judged_exactly(Mutation mutation) {
  const std::array exact = {Mutation::drop_dependency, Mutation::drop_all_dependencies,
                            Mutation::swap_places,     Mutation::shrink_tier,
                            Mutation::free_early,      Mutation::drop_op,
                            Mutation::flip_accumulate};
  return std::find(exact.begin(), exact.end(), mutation) != exact.end();
}

// A check that finds no harm, or a verify that rejects everything, would pass otherwise.
void expect_telling(const Counts& counts) {
  int accepted = 0, tried = 0;
  for (int m = 0; m < kMutationCount; ++m) {
    const Count& count = counts[static_cast<size_t>(m)];
    const auto mutation = static_cast<Mutation>(m);
    accepted += count.tried - count.rejected;
    tried += count.tried;
    if (count.tried < 200) continue;
    EXPECT_GT(count.harmful, count.tried / 40) << name_of(mutation);
    if (judged_exactly(mutation)) {
      EXPECT_LE(count.false_alarms, count.tried / 100) << name_of(mutation);
    }
  }
  EXPECT_GT(accepted, tried / 10);
}

TEST(VerifyMutations, EveryHarmfulMutationIsRejected) {
  const uint64_t seed = from_environment("SLUICE_SEED", 7);
  const auto wanted = static_cast<int>(from_environment("SLUICE_MUTATIONS", SLUICE_MUTATIONS_DEFAULT));
  std::printf("seed %llu, %d mutations\n", static_cast<unsigned long long>(seed), wanted);
  Counts counts;
  std::map<std::string, int> alarms;
  Random random(seed);
  for (int done = 0, missed = 0; done < wanted && missed < 10;) {
    const JobShape shape = random_shape(random);
    const Plan plan = random_plan(random, shape);
    const bool low_bits = pick(random, 0, 1) == 0, resumes = pick(random, 0, 1) == 0;
    const Base base(shape, lower(shape, plan, low_bits, resumes));
    ASSERT_TRUE(missed > 0 || !HasFailure()) << "the plan itself is wrong";
    std::vector<Phase> phases;
    for (const auto& [phase, before] : base.phases) phases.push_back(phase);
    for (int i = 0; i < kMutationsPerJob && done < wanted; ++i) {
      const Phase phase = pick(random, phases);
      const auto kind = static_cast<Mutation>(done % kMutationCount);
      const Schedule& schedule = base.lowered.schedules.at(phase);
      const auto mutated = mutate(kind, schedule, base.lowered.buffers, base.lowered.capacity, random);
      if (!mutated) continue;
      ++done;
      const Result<void> proof = judge(base, phase, *mutated);
      const bool harm = harmful(base, phase, *mutated, random), rejected = !proof.ok(), alarm = rejected && !harm;
      counts[static_cast<size_t>(kind)] += {1, harm, rejected, alarm};
      if (alarm) ++alarms[std::string(name_of(kind)) + ": " + proof.error().message];
      if (!harm || rejected) continue;
      ++missed;
      ADD_FAILURE() << "mutation " << done << " of '" << schedule.name
                    << "' changes a result and is accepted: " << mutated->what << "\n"
                    << to_yaml(plan, shape) << to_table(schedule, base.lowered.buffers);
    }
  }
  print(counts);
  if (std::getenv("SLUICE_ALARMS") != nullptr)
    for (const auto& [what, times] : alarms) std::printf("%5d %s\n", times, what.c_str());
  expect_telling(counts);
}

}  // namespace
}  // namespace sluice::plan
