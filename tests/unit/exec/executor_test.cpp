#include "runtime/exec/executor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <fstream>
#include <random>

#include "swap/faulty_backend.h"
#include "tests/unit/exec/toy_model.h"

namespace sluice::exec {
namespace {

namespace fs = std::filesystem;
using plan::DeviceMemory;
using plan::PhaseKind;
using plan::SlotFate;

constexpr int kLayers = 5, kMicroBatches = 3;
constexpr int64_t kTokens = 8;

struct Arrangement {
  const char* name;
  DeviceMemory memory;
  Tier weights, states, gradients;
  SlotFate activations;
  int prefetch;
};

struct Outcome {
  std::vector<double> losses, norms;
  std::vector<float> weights;
};

class Toy {
 public:
  explicit Toy(const Arrangement& arrangement, const swap::SwapEngine::WrapBackend& wrap = keep_backend) {
    std::string name = (fs::temp_directory_path() / "sluice-executor-XXXXXX").string();
    SLUICE_CHECK(mkdtemp(name.data()) != nullptr, "a folder for the test");
    folder_ = name;
    model_ = toy_model(kLayers);
    write_weights();
    for (const models::ParameterGroup& group : model_.groups) {
      shape_.groups.push_back({group.name, true, group.elements, 4, 8, Bytes{group.elements * 4 + 8192}});
      sources_.weights.push_back(locate(group, places_[&group - model_.groups.data()], 0, plan::Plan().chunk_elements));
    }
    for (const auto& block : model_.blocks) {
      plan::BlockShape each{block->name(), {block->groups()[0]}, {}, 1e6, 2e6, {}};
      for (const models::SlotSpec& slot : block->slots())
        each.slots.push_back({slot.name, Bytes{kTokens * slot.elements_per_token * 4}, 1e5});
      each.workspace_bytes = [](plan::ComputePass, std::span<const uint8_t>) { return Bytes{kTokens * kToyWidth * 4}; };
      shape_.blocks.push_back(std::move(each));
    }
    shape_.tokens_max = kTokens;
    shape_.boundary_bytes = Bytes{kTokens * kToyWidth * 4};
    shape_.micro_batches = kMicroBatches;
    request_.memory = arrangement.memory;
    request_.weights = arrangement.weights;
    request_.states = arrangement.states;
    request_.gradients = arrangement.gradients;
    request_.activations = arrangement.activations;
    request_.prefetch = arrangement.prefetch;
    request_.caps = {GiB(1), GiB(1), GiB(1)};
    request_.source_low_bits.assign(model_.groups.size(), 0);
    request_.update = plan::UpdateTime::before_forward;
    planned_ = plan::make_plan(shape_, request_);
    swap::SwapOptions options;
    options.nvme_paths = {folder_};
    swap_ = std::make_unique<swap::SwapEngine>(options, wrap);
    executor_ = std::make_unique<Executor>(model_, shape_, planned_, sources_, *swap_, ExecutorOptions{2, {}, {}});
    make_batches();
  }
  ~Toy() {
    executor_.reset();
    swap_.reset();
    fs::remove_all(folder_);
  }

  Outcome train(int steps) {
    Outcome outcome;
    run({PhaseKind::load, kMicroBatches}, {});
    bool pending = false, stored = false;
    optim::AdamWSettings update{.learning_rate = 1e-2, .weight_decay = 0.1};
    for (int step = 1; step <= steps; ++step) {
      const PhaseResult result = run({PhaseKind::train, kMicroBatches, pending, stored, stored}, update);
      stored = stored || pending;
      double loss = 0;
      for (const double each : result.loss_sums) loss += each;
      outcome.losses.push_back(loss);
      outcome.norms.push_back(result.squared_gradient_norm);
      update.step = step;
      update.gradient_scale = 0.5f;
      pending = true;
    }
    run({PhaseKind::flush, kMicroBatches, true, stored, stored}, update);
    executor_->read_back(
        /*odd=*/false,
        [&](int, std::span<const std::byte> bytes) {
          const auto* values = reinterpret_cast<const float*>(bytes.data());
          outcome.weights.insert(outcome.weights.end(), values, values + bytes.size() / 4);
        },
        [](int, int64_t, int64_t, std::span<const std::byte>) {});
    return outcome;
  }

  Executor& executor() { return *executor_; }
  std::array<Bytes, kTierCount> simulated_peak() const { return simulated_peak_; }
  std::string plan_text() const { return plan::to_yaml(planned_.plan, shape_); }

 private:
  static std::unique_ptr<swap::IoBackend> keep_backend(std::unique_ptr<swap::IoBackend> backend) { return backend; }

  PhaseResult run(const plan::Phase& phase, const optim::AdamWSettings& update) {
    const plan::Schedule& schedule = planned_.schedule(phase, shape_, request_);
    const plan::MachineProfile rates{{1e9}, {1e9}, {1e9}, {1e9}, {1e9}};
    const auto peak = plan::simulate(schedule, planned_.layout.buffers(), rates).peak;
    for (size_t tier = 0; tier < kTierCount; ++tier)
      simulated_peak_[tier] = std::max(simulated_peak_[tier], peak[tier]);
    return executor_->run(schedule, {batches_, update});
  }

  void write_weights() {
    std::mt19937 random(3);
    std::normal_distribution<float> normal(0, 0.1f);
    std::ofstream file(folder_ / "weights", std::ios::binary);
    file << "123456789012";  // tensors need not be aligned in the user's files
    int64_t at = 12;
    for (const models::ParameterGroup& group : model_.groups) {
      for (int64_t i = 0; i < group.elements; ++i) {
        const float value = normal(random);
        file.write(reinterpret_cast<const char*>(&value), 4);
      }
      places_.push_back({{group.tensors[0].name, Dtype::f32, {group.elements}, 0, at, group.elements * 4}});
      at += group.elements * 4;
    }
    sources_.files = {folder_ / "weights"};
  }
  void make_batches() {
    std::mt19937 random(4);
    for (int i = 0; i < kMicroBatches; ++i) {
      ids_.emplace_back();
      for (int64_t n = 0; n < kTokens - i; ++n) ids_.back().push_back(static_cast<int32_t>(random() % kToyVocabulary));
    }
    for (int i = 0; i < kMicroBatches; ++i) {
      models::MicroBatch batch;
      batch.tokens = kTokens - i;
      batch.token_ids = ids_[static_cast<size_t>(i)];
      batch.loss_scale = 1e-3;
      batch.step = 1;
      batch.index = static_cast<uint64_t>(i);
      batches_.push_back(batch);
    }
  }

  fs::path folder_;
  models::Model model_;
  plan::JobShape shape_;
  plan::PlanRequest request_;
  plan::Planned planned_;
  JobSources sources_;
  std::vector<std::vector<models::TensorLocation>> places_;
  std::unique_ptr<swap::SwapEngine> swap_;
  std::unique_ptr<Executor> executor_;
  std::vector<std::vector<int32_t>> ids_;
  std::vector<models::MicroBatch> batches_;
  std::array<Bytes, kTierCount> simulated_peak_{};
};

constexpr Arrangement kMemory{"memory", DeviceMemory::unified, Tier::host, Tier::host, Tier::host, SlotFate::keep, 2};
const std::vector<Arrangement> kOthers = {
    {"disk", DeviceMemory::unified, Tier::disk, Tier::disk, Tier::disk, SlotFate::keep, 1},
    {"disk_disk", DeviceMemory::unified, Tier::disk, Tier::disk, Tier::disk, SlotFate::disk, 4},
    {"recompute", DeviceMemory::unified, Tier::host, Tier::disk, Tier::host, SlotFate::recompute, 2},
    {"device", DeviceMemory::separate, Tier::device, Tier::host, Tier::host, SlotFate::keep, 2},
    {"emulated_host", DeviceMemory::separate, Tier::host, Tier::host, Tier::host, SlotFate::host, 1},
    {"emulated_disk", DeviceMemory::separate, Tier::disk, Tier::disk, Tier::disk, SlotFate::disk, 3},
};

TEST(Executor, EveryArrangementComputesTheSameBits) {
  Toy reference(kMemory);
  const Outcome expected = reference.train(5);
  EXPECT_LT(expected.losses.back(), expected.losses.front());
  for (const Arrangement& arrangement : kOthers) {
    Toy toy(arrangement);
    EXPECT_NE(toy.plan_text(), reference.plan_text()) << arrangement.name;
    const Outcome outcome = toy.train(5);
    EXPECT_EQ(outcome.losses, expected.losses) << arrangement.name;
    EXPECT_EQ(outcome.norms, expected.norms) << arrangement.name;
    EXPECT_EQ(outcome.weights, expected.weights) << arrangement.name;
  }
}

TEST(Executor, HighWaterEqualsTheSimulatedPeakAndNothingIsAllocatedAfterwards) {
  std::vector<Arrangement> all = kOthers;
  all.push_back(kMemory);
  for (const Arrangement& arrangement : all) {
    Toy toy(arrangement);
    const int64_t allocated = toy.executor().arena_allocations();
    toy.train(3);
    for (const Tier tier : {Tier::device, Tier::host})
      EXPECT_EQ(toy.executor().high_water(tier).count, toy.simulated_peak()[static_cast<size_t>(tier)].count)
          << arrangement.name << " " << name_of(tier);
    EXPECT_EQ(toy.executor().arena_allocations(), allocated);
  }
}

TEST(Executor, AFailedTransferStopsTheRunWithFileAndOffset) {
  for (const int64_t at : {0, 3, 10, 25, 40}) {
    swap::Faults faults;
    faults.fail_at = at;
    faults.fail_errno = EIO;
    Toy toy(kOthers[1], [&](std::unique_ptr<swap::IoBackend> inner) {
      return swap::make_faulty_backend(std::move(inner), faults);
    });
    try {
      toy.train(5);
      FAIL() << "the fault at request " << at << " went unnoticed";
    } catch (const RunError& error) {
      EXPECT_NE(error.error().message.find("offset"), std::string::npos) << error.what();
    }
  }
}

TEST(Executor, AFlippedBitStopsTheRun) {
  swap::Faults faults;
  faults.flip_bit_at = 30;
  Toy toy(kOthers[0],
          [&](std::unique_ptr<swap::IoBackend> inner) { return swap::make_faulty_backend(std::move(inner), faults); });
  EXPECT_THROW(toy.train(5), RunError);
}

}  // namespace
}  // namespace sluice::exec
