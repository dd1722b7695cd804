// A job that a program trains step by step. No LibTorch types: tensors.h has them.
#pragma once

#include <sluice/errors.h>
#include <sluice/job.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace sluice {

// As a line of trainer_log.jsonl says it. Steps count from 1 here.
struct Step {
  int64_t step = 0;
  double loss = 0;  // mean over the step's supervised tokens
  double grad_norm = 0, learning_rate = 0;
  int64_t tokens = 0;
  double step_seconds = 0, tokens_per_second = 0;
  double bound_seconds = 0, percent_of_bound = 0;
  std::string binding_lane;
  int64_t device_peak_bytes = 0, host_peak_bytes = 0;
  int64_t disk_read_bytes = 0, disk_write_bytes = 0;
  bool skipped = false;  // fp16 overflowed: nothing was updated
};

struct Checkpoint {
  std::filesystem::path folder;
  int64_t step = 0;
};

struct Validated {
  double loss = 0;   // mean over the supervised tokens of the job's validation rows
  int64_t step = 0;  // done
};

// All optional. Called on the thread that calls the Trainer, once what they tell of is whole: they may call the
// Trainer, other than step() and run(), and what they throw comes out of that call (see run()).
struct Callbacks {
  std::function<void(const Step&)> step_ended;
  std::function<void(const Checkpoint&)> checkpoint_written;
  std::function<void(const Validated&)> validated;
  std::function<bool()> should_stop;  // asked by run() after each step
  // Whether nobody should wait for room on a full drive any more: asked ten times a second while somebody waits, on any
  // thread; must not throw. The call that waits then ends as after request_stop.
  std::function<bool()> ends_waiting;
  // A line for people. Any thread, at any time; must not throw. Empty: stderr.
  std::function<void(const std::string&)> note;
};

// A tensor of the model, by its name in a Hugging Face or peft file.
struct Parameter {
  std::string name;
  std::vector<int64_t> shape;
  bool trained = false;
  int64_t elements() const;
};

// Where a tensor's values lie in the runtime's memory, row-major. For reading: an optimizer's other half of them would
// not know of a change; Trainer::write_parameter changes both.
struct ParameterView {
  const void* data = nullptr;
  std::string dtype;  // "f32", "bf16" or "f16", as compute has it
};

enum class Ended { finished, stopped };

// Not thread-safe, but for request_stop. After close(), and in a forked child, every call throws JobError. Sets malloc
// up for the process as training needs it, and handles no signals.
class Trainer {
 public:
  // Plans, takes all memory and disk that training will need, and loads the model, or the checkpoint that the job goes
  // on from. Throws JobError, TrainingError.
  explicit Trainer(const Job& job, Callbacks callbacks = {});
  ~Trainer();  // as close()
  Trainer(Trainer&&) noexcept;
  Trainer& operator=(Trainer&&) noexcept;

  const Plan& plan() const;
  const std::filesystem::path& output_dir() const;
  int64_t steps_done() const;  // those before the checkpoint that it went on from among them
  int64_t steps_total() const;
  bool ended() const { return steps_done() == steps_total(); }

  // Trains until the end and finishes, or until should_stop or request_stop, and stops. When a callback or the data
  // throws, it stops with a checkpoint first. Stopped while it waited for room on a full drive: as after a step that
  // failed, no call may follow but close(), and the newest checkpoint is what there is to go on from.
  Ended run();

  // One step, with the checkpoint and the validation that the job asks for after it.
  Step step();
  // Mean loss of the job's validation rows, with the newest weights.
  double evaluate();
  // The same of micro-batches that `data` gives for step 0, 1, ... until it has none for a step.
  double evaluate(const DataSource& data);
  // A checkpoint of now, beside those that the job asks for. Nothing where nothing has been trained yet.
  std::optional<std::filesystem::path> save();
  // After the last step: the checkpoint, and the result in output_dir. The Trainer stays open for reading.
  void finish();
  // Before it: a checkpoint where there is something to save. Returns the newest that can be gone on from. Steps may
  // follow.
  std::optional<std::filesystem::path> stop();

  // Wishes run() to stop after its step. A call that waits for room on a full drive ends at once: run() as it says,
  // others with TrainingError. Any thread, and signal handlers.
  void request_stop() noexcept;

  std::vector<Parameter> parameters() const;
  // The newest values of a tensor, as compute sees them, in row-major order; `values` has as many elements as it.
  void read_parameter(const std::string& name, std::span<float> values);
  // Puts values in the place of a trained tensor's, for all that follows: the fp32 master becomes these numbers, the
  // optimizer's moments stay. After a step of this Trainer: until then a tensor is that of the files. They must be
  // finite as compute sees them.
  void write_parameter(const std::string& name, std::span<const float> values);
  // The same where they lie, without a copy: until the next call other than these. Nothing where the plan keeps them
  // elsewhere than in RAM, and of frozen tensors.
  std::optional<ParameterView> view_parameter(const std::string& name);

  // Gives back memory, disk and the lock on output_dir. Checkpoints and results stay. No checkpoint is written.
  void close() noexcept;

 private:
  class Impl;
  Impl& open() const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
