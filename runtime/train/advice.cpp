#include "runtime/train/advice.h"

#include <algorithm>
#include <cstdio>
#include <functional>

#include "runtime/exec/block_prediction.h"

namespace sluice::train {
namespace {

constexpr double kWorthSaying = 0.03;

// What was measured is not measured again: times of passes grow with their tokens, and what they allocate does so at
// most.
exec::BlockPasses passes_at(const Job& job, const BatchShape& batch) {
  if (job.target) return exec::predict_block_passes(job.setup.model, pass_size(job.setup, batch), *job.target);
  const double times = static_cast<double>(batch.tokens_max) / static_cast<double>(job.batch.tokens_max);
  exec::BlockPasses passes = exec::slowed(job.passes, times);
  for (Bytes* each : {&passes.transient, &passes.device_transient})
    *each = {static_cast<int64_t>(static_cast<double>(each->count) * std::max(times, 1.0))};
  return passes;
}

plan::JobShape shape_at(const Job& job, const BatchShape& batch) {
  plan::JobShape shape = shape_of(job.setup, job.sources, batch, passes_at(job, batch));
  shape.process_bytes = job.shape.process_bytes;  // not what planning has taken since
  shape.device_memory_rate = job.shape.device_memory_rate;
  shape.device_process_bytes = job.shape.device_process_bytes;
  shape.checkpoints = job.shape.checkpoints;
  for (size_t g = 0; g < shape.groups.size(); ++g)
    shape.groups[g].states_staging_bytes = job.shape.groups[g].states_staging_bytes;
  return shape;
}

BatchShape with_micro_batch_size(const Job& job, int64_t size) {
  BatchShape batch = job.batch;
  batch.tokens_max = job.data->tokens_max(size);
  return batch;
}
BatchShape with_sequence_len(const Job& job, int64_t length) {
  BatchShape batch = job.batch;
  batch.document_max = std::min(batch.document_max, length);
  batch.tokens_max = std::min(batch.tokens_max, length * job.config.micro_batch_size);
  return batch;
}

plan::JobShape with_states(const Job& job, MomentFormat format) {
  plan::JobShape shape = shape_at(job, job.batch);
  for (size_t g = 0; g < shape.groups.size(); ++g)
    shape.groups[g].states =
        state_layout_of(job.setup.model.groups[g], format, job.setup.model.compute_dtype, job.config.update_rule);
  return shape;
}
Bytes states_of(const plan::JobShape& shape) {
  Bytes sum;
  for (const plan::GroupShape& group : shape.groups)
    if (group.trainable) sum += group.state_bytes();
  return sum;
}
// Formats of states with fewer bits than the job's, the nearest first.
std::vector<MomentFormat> smaller_states(const Job& job) {
  std::vector<MomentFormat> formats;
  if (job.resume) return formats;  // a checkpoint's states keep their format
  Bytes least = states_of(job.shape);
  for (const MomentFormat format : {MomentFormat::bf16, MomentFormat::int8}) {
    const Bytes bytes = states_of(with_states(job, format));
    if (format <= job.config.offload.optimizer_state || bytes >= least) continue;
    formats.push_back(format);
    least = bytes;
  }
  return formats;
}
std::string state_setting(MomentFormat format) { return "offload.optimizer_state " + std::string(name_of(format)); }
// The largest in [1, most] steps that fits, as fitting is monotone; 0: none.
int64_t largest_that_fits(int64_t most, const std::function<bool(int64_t)>& fits) {
  int64_t low = 0;
  for (int64_t high = most; low < high;) {
    const int64_t middle = low + (high - low + 1) / 2;
    (fits(middle) ? low : high) = fits(middle) ? middle : middle - 1;
  }
  return low;
}

class Advisor {
 public:
  explicit Advisor(const Job& job) : job_(job), now_(speed(job.shape, job.planned)) {}

  std::vector<Change> changes() {
    larger_batches();
    for (const MomentFormat format : smaller_states(job_))
      if (consider(state_setting(format), with_states(job_, format), job_.request)) break;
    more_memory(Tier::device, "max_gpu");
    more_memory(Tier::host, "max_cpu");
    another_drive();
    return std::move(changes_);
  }

 private:
  static double speed(const plan::JobShape& shape, const plan::Planned& planned) {
    return static_cast<double>(shape.tokens_max * shape.micro_batches) / (planned.steady.time.count / 1e6);
  }

  // False when it does not fit or does not help enough.
  bool consider(const std::string& what, const plan::JobShape& shape, const plan::PlanRequest& request) {
    const std::optional<plan::Planned> planned = plan::find_plan(shape, request);
    if (!planned) return false;
    const double tokens_per_second = speed(shape, *planned);
    if (tokens_per_second < now_ * (1 + kWorthSaying)) return false;
    changes_.push_back({what, tokens_per_second, tokens_per_second / now_ - 1});
    return true;
  }

  void larger_batches() {
    const Config& config = job_.config;
    BatchShape batch = with_micro_batch_size(job_, 2 * config.micro_batch_size);
    if (batch.tokens_max > job_.batch.tokens_max)
      consider("micro_batch_size " + std::to_string(2 * config.micro_batch_size), shape_at(job_, batch), job_.request);
    batch = job_.batch;
    batch.micro_batches *= 2;
    consider("gradient_accumulation_steps " + std::to_string(batch.micro_batches), shape_at(job_, batch), job_.request);
  }

  void more_memory(Tier tier, const char* key) {
    if (tier == Tier::device && job_.request.memory == plan::DeviceMemory::unified) return;
    for (const int percent : {25, 50, 100}) {
      plan::PlanRequest request = job_.request;
      Bytes& cap = request.caps[static_cast<size_t>(tier)];
      cap.count += cap.count / 100 * percent;
      if (consider(std::string(key) + ' ' + to_string(cap) + " (+" + std::to_string(percent) + "%)", job_.shape,
                   request))
        return;
    }
  }

  void another_drive() {
    plan::PlanRequest request = job_.request;
    if (request.profile.disk_read.count == 0) return;
    request.profile.disk_read.count *= 2;
    request.profile.disk_write.count *= 2;
    consider("twice the drives", job_.shape, request);
  }

  const Job& job_;
  const double now_;
  std::vector<Change> changes_;
};

}  // namespace

std::vector<std::string> settings_that_fit(const Job& job) {
  const auto fits = [&](const BatchShape& batch) { return plan::can_fit(shape_at(job, batch), job.request); };
  std::vector<std::string> settings;
  const int64_t size = largest_that_fits(job.config.micro_batch_size - 1,
                                         [&](int64_t each) { return fits(with_micro_batch_size(job, each)); });
  if (size > 0) settings.push_back("set micro_batch_size to " + std::to_string(size));
  constexpr int64_t kStep = 64;
  const int64_t length = kStep * largest_that_fits((job.config.sequence_len - 1) / kStep, [&](int64_t each) {
                           return fits(with_sequence_len(job, kStep * each));
                         });
  if (length > 0) settings.push_back("set sequence_len to " + std::to_string(length));
  for (const MomentFormat format : smaller_states(job)) {
    if (!plan::can_fit(with_states(job, format), job.request)) continue;
    settings.push_back("set offload.optimizer_state to " + std::string(name_of(format)));
    break;
  }
  plan::JobShape in_place = shape_at(job, job.batch);
  in_place.checkpoints = {};
  if (job.shape.checkpoints.kept > 0 && plan::can_fit(in_place, job.request))
    settings.push_back("set checkpoint to in_place, which keeps none through a kill");
  return settings;
}

std::vector<Change> faster_changes(const Job& job) { return Advisor(job).changes(); }

std::string to_text(const std::vector<Change>& changes) {
  if (changes.empty()) return "faster with    no single change of batch, states, memory or drives gains 3% or more\n";
  std::string text;
  for (const Change& change : changes) {
    char line[200];
    std::snprintf(line, sizeof line, "%-14s %s: %.0f tokens/s (+%.0f%%)\n", text.empty() ? "faster with" : "",
                  change.what.c_str(), change.tokens_per_second, 100 * change.gain);
    text += line;
  }
  return text;
}

}  // namespace sluice::train
