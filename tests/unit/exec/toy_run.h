// A whole job of the toy model: planned, lowered and trained through the executor, step by step as the trainer does it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <random>

#include "runtime/exec/executor.h"
#include "runtime/plan/verify.h"
#include "swap/faulty_backend.h"
#include "tests/unit/exec/toy_model.h"
#include "tests/unit/plan/progress.h"

namespace sluice::exec {

inline constexpr int kToyLayers = 5;
inline constexpr int64_t kToyTokens = 8;
// The embedding has two chunks.
inline constexpr int64_t kToyChunk = 4096;

enum class ToyUpdate : uint8_t { late, early, every_other_early };
enum class ToyClipping : uint8_t { off, on };

struct ToyJob {
  const char* name;
  plan::DeviceMemory memory;
  Tier weights, states, gradients;
  plan::SlotFate activations;
  int prefetch;
  ToyUpdate update = ToyUpdate::late;
  ToyClipping clipping = ToyClipping::off;
  int micro_batches = 3;
  ToyHeadKind head = ToyHeadKind::own;
};

struct ToyStep {
  plan::Early early = plan::Early::update;
  float gradient_scale = 1;
  enum class End : uint8_t { go_on, evaluate } end = End::go_on;
  enum class Fate : uint8_t { counts, skipped } fate = Fate::counts;
};

struct Outcome {
  std::vector<double> losses, norms, validation;
  std::vector<float> weights, states;
  int redone = 0, counted = 0;
  bool operator==(const Outcome& other) const {
    return losses == other.losses && norms == other.norms && validation == other.validation &&
           weights == other.weights && states == other.states;
  }
};

class Toy {
 public:
  Toy(const ToyJob& job, const ExecutorOptions& executor) : Toy(job, keep_backend, executor) {}
  explicit Toy(const ToyJob& job, const swap::SwapEngine::WrapBackend& wrap = keep_backend,
               const ExecutorOptions& executor = {.optimizer_threads = 2}, const SpacePatience& patience = {}) {
    namespace fs = std::filesystem;
    std::string name = (fs::temp_directory_path() / "sluice-executor-XXXXXX").string();
    SLUICE_CHECK(mkdtemp(name.data()) != nullptr, "a folder for the test");
    folder_ = name;
    model_ = toy_model(kToyLayers, job.head);
    write_weights();
    describe_job(job.micro_batches);
    plan(job);
    swap::SwapOptions options;
    options.nvme_paths = {folder_};
    options.patience = patience;
    swap_ = std::make_unique<swap::SwapEngine>(options, wrap);
    executor_ = std::make_unique<Executor>(model_, shape_, planned_, sources_, *swap_, executor);
    make_batches();
  }
  ~Toy() {
    executor_.reset();
    swap_.reset();
    std::filesystem::remove_all(folder_);
  }

  Outcome train(const std::vector<ToyStep>& steps) {
    Outcome outcome;
    progress_ = plan::Progress(planned_.plan);
    run(progress_.next(plan::PhaseKind::load, shape_.micro_batches));
    for (const ToyStep& step : steps) {
      train_step(step, outcome);
      if (step.end == ToyStep::End::evaluate) outcome.validation.push_back(evaluate());
    }
    flush();
    read_back(outcome);
    return outcome;
  }
  Outcome train(int steps) { return train(std::vector<ToyStep>(static_cast<size_t>(steps), ToyStep{})); }

  // One step from the begin, for nothing but what it finds.
  PhaseResult step(WhenNotFinite when_not_finite) {
    progress_ = plan::Progress(planned_.plan);
    run(progress_.next(plan::PhaseKind::load, shape_.micro_batches));
    return execute(progress_.next(plan::PhaseKind::train, shape_.micro_batches), when_not_finite);
  }

  // All weights and states once more.
  Outcome read_back() {
    Outcome outcome;
    read_back(outcome);
    return outcome;
  }

  // All weights twice as large, all states three times.
  void change() {
    const auto multiply = [](std::span<std::byte> bytes, float factor) {
      auto* values = reinterpret_cast<float*>(bytes.data());
      for (size_t i = 0; i < bytes.size() / 4; ++i) values[i] *= factor;
    };
    for (size_t g = 0; g < shape_.groups.size(); ++g)
      executor_->change(
          static_cast<int>(g), progress_.odd(), 0, shape_.groups[g].elements,
          [&](std::span<std::byte> weights) { multiply(weights, 2); },
          [&](int64_t, int64_t, std::span<std::byte> states) { multiply(states, 3); });
  }

  Executor& executor() { return *executor_; }
  models::Model& model() { return model_; }
  std::array<Bytes, kTierCount> simulated_peak() const { return simulated_peak_; }
  std::string plan_text() const { return plan::to_yaml(planned_.plan, shape_); }

 private:
  static std::unique_ptr<swap::IoBackend> keep_backend(std::unique_ptr<swap::IoBackend> backend) { return backend; }

  void train_step(const ToyStep& step, Outcome& outcome) {
    const plan::Phase phase = progress_.next(plan::PhaseKind::train, shape_.micro_batches, step.early);
    early_update_ = {.learning_rate = 1e-2, .weight_decay = 0.1};
    early_update_.step = outcome.counted + 1;
    const PhaseResult result = execute(phase);
    double loss = 0;
    for (const double each : result.loss_sums) loss += each;
    outcome.losses.push_back(loss);
    outcome.norms.push_back(result.squared_gradient_norm);
    if (step.fate == ToyStep::Fate::skipped) return progress_.skipped();
    ++outcome.counted;
    update_ = early_update_;
    update_.gradient_scale = step.gradient_scale;
    if (phase.early && step.gradient_scale != 1) {
      SLUICE_CHECK(planned_.plan.undoable, "this test clips what it cannot undo");
      early_update_ = update_;
      execute(progress_.redo_of(phase, shape_.micro_batches));
      ++outcome.redone;
    }
    progress_.ended(phase);
  }
  double evaluate() {
    flush();
    const PhaseResult result = run(progress_.next(plan::PhaseKind::evaluate, shape_.micro_batches));
    double loss = 0;
    for (const double each : result.loss_sums) loss += each;
    return loss;
  }
  void flush() {
    if (progress_.pending()) run(progress_.next(plan::PhaseKind::flush, shape_.micro_batches));
  }
  void read_back(Outcome& outcome) {
    const auto append = [](std::vector<float>& to, std::span<const std::byte> bytes) {
      const auto* values = reinterpret_cast<const float*>(bytes.data());
      to.insert(to.end(), values, values + bytes.size() / 4);
    };
    executor_->read_back(
        progress_.odd(), ReadBackOf::everything,
        [&](int, std::span<const std::byte> bytes) { append(outcome.weights, bytes); },
        [&](int, int64_t, int64_t, std::span<const std::byte> bytes) { append(outcome.states, bytes); });
  }

  PhaseResult run(const plan::Phase& phase) {
    PhaseResult result = execute(phase);
    progress_.ended(phase);
    return result;
  }
  PhaseResult execute(const plan::Phase& phase, WhenNotFinite when_not_finite = WhenNotFinite::fails) {
    const plan::Schedule& schedule = planned_.schedule(phase, shape_, request_);
    const plan::MachineProfile rates{{1e9}, {1e9}, {1e9}, {1e9}, {1e9}};
    const auto peak = plan::simulate(schedule, planned_.layout.buffers(), rates).peak;
    for (size_t tier = 0; tier < kTierCount; ++tier)
      simulated_peak_[tier] = std::max(simulated_peak_[tier], peak[tier]);
    return executor_->run(schedule, {batches_, update_, early_update_, when_not_finite});
  }

  void describe_job(int micro_batches) {
    for (const models::ParameterGroup& group : model_.groups) {
      shape_.groups.push_back({group.name, true, group.elements, 4, StateLayout(MomentFormat::f32, Dtype::f32),
                               Bytes{group.elements * 4 + 8192}});
      sources_.weights.push_back(locate(group, places_[shape_.groups.size() - 1], 0, kToyChunk));
    }
    for (const auto& block : model_.blocks) {
      plan::BlockShape each{block->name(), {block->groups()[0]}, {}, 1e6, 2e6, {}};
      for (const models::SlotSpec& slot : block->slots())
        each.slots.push_back({slot.name, Bytes{kToyTokens * slot.elements_per_token * 4}, 1e5});
      each.workspace_bytes = [](plan::ComputePass, std::span<const uint8_t>) {
        return Bytes{kToyTokens * kToyWidth * 4};
      };
      shape_.blocks.push_back(std::move(each));
    }
    shape_.tokens_max = kToyTokens;
    shape_.boundary_bytes = Bytes{kToyTokens * kToyWidth * 4};
    shape_.micro_batches = micro_batches;
    shape_.device_memory_rate = {1e10};
  }

  // The planner's choice for the job, with small chunks and the update of every other group forced.
  void plan(const ToyJob& job) {
    using plan::UpdateTime;
    request_.memory = job.memory;
    request_.weights = job.weights;
    request_.states = job.states;
    request_.gradients = job.gradients;
    request_.activations = job.activations;
    request_.prefetch = job.prefetch;
    request_.update = job.update == ToyUpdate::late ? UpdateTime::before_forward : UpdateTime::behind_backward;
    request_.clips = job.clipping == ToyClipping::on;
    request_.chunk_elements = kToyChunk;
    request_.caps = {GiB(1), GiB(1), GiB(1)};
    request_.source_low_bits.assign(model_.groups.size(), 0);
    planned_.plan = plan::make_plan(shape_, request_).plan;
    SLUICE_CHECK(planned_.plan.chunk_elements == kToyChunk, "small chunks");
    for (size_t g = 0; g < shape_.groups.size(); ++g)
      if (job.update == ToyUpdate::every_other_early && g % 2 == 0)
        planned_.plan.groups[g].update = UpdateTime::before_forward;
    for (const plan::Phase& phase : plan::phases_of(shape_, planned_.plan, /*resumes=*/false))
      planned_.schedules.emplace(
          phase, plan::build_schedule(shape_, planned_.plan, phase, request_.source_low_bits, planned_.layout));
    planned_.layout.freeze();
    planned_.memory = planned_.layout.memory();
    for (const auto& [phase, schedule] : planned_.schedules)
      EXPECT_TRUE(plan::verify(schedule, planned_.layout.buffers(), planned_.memory.peak).ok()) << schedule.name;
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
    for (int i = 0; i < shape_.micro_batches; ++i) {
      ids_.emplace_back();
      for (int64_t n = 0; n < kToyTokens - i; ++n)
        ids_.back().push_back(static_cast<int32_t>(random() % kToyVocabulary));
    }
    for (int i = 0; i < shape_.micro_batches; ++i) {
      models::MicroBatch batch;
      batch.tokens = kToyTokens - i;
      batch.token_ids = ids_[static_cast<size_t>(i)];
      batch.loss_scale = 1e-3;
      batch.step = 1;
      batch.index = static_cast<uint64_t>(i);
      batches_.push_back(batch);
    }
  }

  std::filesystem::path folder_;
  models::Model model_;
  plan::JobShape shape_;
  plan::PlanRequest request_;
  plan::Planned planned_;
  plan::Progress progress_;
  JobSources sources_;
  std::vector<std::vector<models::TensorLocation>> places_;
  std::unique_ptr<swap::SwapEngine> swap_;
  std::unique_ptr<Executor> executor_;
  std::vector<std::vector<int32_t>> ids_;
  std::vector<models::MicroBatch> batches_;
  optim::AdamWSettings update_, early_update_;
  std::array<Bytes, kTierCount> simulated_peak_{};
};

}  // namespace sluice::exec
