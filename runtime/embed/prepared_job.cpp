#include "runtime/embed/prepared_job.h"

#include <utility>

#include "runtime/embed/own_loss.h"
#include "runtime/plan/report.h"
#include "runtime/train/config_source.h"
#include "runtime/train/job_text.h"

namespace sluice::embed {
namespace {

int64_t peak(const train::Job& job, Tier tier) {
  const Bytes beside = tier == Tier::disk ? plan::checkpoint_bytes(job.planned.memory, job.shape) : Bytes{};
  return (job.planned.memory.peak[static_cast<size_t>(tier)] + beside).count;
}

}  // namespace

train::Config config_of(const Job& job) {
  if (job.data && job.row) throw SetupError("the job has data by batch and by row", "give Job::data or Job::row");
  if (job.file.empty() == job.yaml.empty())
    throw SetupError(job.yaml.empty() ? "the job has neither a file nor a text" : "the job has a file and a text",
                     "give Job::file or Job::yaml, and what goes over it as Job::settings");
  train::JobText text{job.yaml, "the job's text", job.settings,
                      job.row    ? train::DataFrom::own_rows
                      : job.data ? train::DataFrom::own_batches
                                 : train::DataFrom::datasets};
  if (job.yaml.empty()) {
    text.yaml = train::read_job_file(job.file);
    text.origin = job.file.string();
  }
  train::Config config = train::load_config(text);
  if (job.loss && job.loss_name.empty()) throw SetupError("the job's loss has no name", "set Job::loss_name");
  if (job.loss) config.own_loss = job.loss_name;
  return config;
}

namespace {

// The program's own exceptions are not the runtime's.
template <class Act>
auto calling_program(const Act& act) {
  try {
    return act();
  } catch (...) {
    throw ThrownBySource{std::current_exception()};
  }
}

train::OwnBatch own_batch(Batch&& batch) {
  return {std::move(batch.token_ids), std::move(batch.labels), std::move(batch.document_starts)};
}

}  // namespace

train::OwnSource source_of(const DataSource& data, const train::OwnLimits& limits) {
  return [data, limits](int64_t step, int64_t index, train::OwnBatch& to) {
    const BatchRequest request{step, index, limits.documents_max, limits.document_max, limits.micro_batches_max};
    Batch batch;
    if (!calling_program([&] { return data(request, batch); })) return false;
    to = own_batch(std::move(batch));
    return true;
  };
}

train::MakeData data_of(const Job& job) {
  if (!job.data && !job.row) return {};
  return [&job](train::Config& config, const models::Model& model) {
    train::OwnData data{.rows = job.rows, .name = job.data_name};
    if (job.data) data.source = source_of(job.data, {config, model.vocabulary});
    if (job.row)
      data.row = [row = job.row](int64_t index, train::OwnBatch& to) {
        Batch document;
        calling_program([&] { row(index, document); });
        to = own_batch(std::move(document));
      };
    return train::own_data(config, std::move(data), model.vocabulary);
  };
}

Plan plan_of(const train::Job& job) {
  const plan::Forecast forecast = train::forecast_of(job);
  Plan plan;
  plan.steps = forecast.steps;
  plan.step_seconds = forecast.step.count / 1e6;
  plan.bound_seconds = forecast.bound.time.count / 1e6;
  plan.binding_lane = name_of(forecast.bound.lane);
  plan.percent_of_bound = forecast.percent_of_bound;
  plan.tokens_per_second = forecast.tokens_per_second;
  plan.seconds = forecast.finish.count / 1e6;
  plan.device_peak_bytes = peak(job, Tier::device);
  plan.host_peak_bytes = peak(job, Tier::host);
  plan.disk_peak_bytes = peak(job, Tier::disk);
  plan.disk_read_bytes = forecast.disk_read.count;
  plan.disk_write_bytes = forecast.disk_written.count;
  plan.text = train::plan_text(job);
  plan.json = plan::to_json(job.planned, job.shape, job.request.caps, forecast);
  return plan;
}

}  // namespace sluice::embed

namespace sluice {

Plan plan_of(const Job& job) {
  return embed::translated([&] {
    embed::OwnLoss loss(job.loss, job.loss_place);
    const train::Job prepared = train::prepare_job(embed::config_of(job), train::Purpose::inspect, nullptr, nobody(),
                                                   {embed::data_of(job), job.loss ? &loss : nullptr});
    return embed::plan_of(prepared);
  });
}

}  // namespace sluice
