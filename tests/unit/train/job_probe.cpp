// What the job's parts compute, as JSON on stdout, for Python to compare with transformers and with the text side:
//   job_probe schedule constant|linear|cosine PEAK WARMUP_STEPS WARMUP_RATIO TOTAL_STEPS
//   job_probe batches TOKEN_FILE MICRO_BATCH_SIZE ACCUMULATION STEPS     rows in file order
//   job_probe sample LOGITS TEMPERATURE TOP_P TOP_K SEED COUNT           LOGITS as JSON; so many tokens, one by one
//   job_probe server MODEL TEXT                                          a text there and back
//   job_probe loss_scale INIT_SCALE GROWTH_INTERVAL OVERFLOWS            "00100": scale before each step and at the end
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "runtime/train/data.h"
#include "runtime/train/loss_scale.h"
#include "runtime/train/lr_schedule.h"
#include "runtime/train/sampler.h"
#include "runtime/train/text_process.h"

namespace sluice::train {
namespace {

using nlohmann::json;

json schedule(std::span<char*> arguments) {
  static const std::map<std::string, LearningRateSchedule> names = {{"constant", LearningRateSchedule::constant},
                                                                    {"linear", LearningRateSchedule::linear},
                                                                    {"cosine", LearningRateSchedule::cosine}};
  Config config;
  config.lr_scheduler = names.at(arguments[0]);
  config.learning_rate = std::stod(arguments[1]);
  config.warmup_steps = std::stoll(arguments[2]);
  config.warmup_ratio = std::stod(arguments[3]);
  const int64_t total = std::stoll(arguments[4]);
  const LearningRate rate(config, total);
  json rates = json::array();
  for (int64_t step = 0; step < total; ++step) rates.push_back(rate.at(step));
  return rates;
}

json batches(std::span<char*> arguments) {
  const TokenDataset dataset(arguments[0]);
  BatchPlanOptions options;
  options.rows = dataset.rows();
  options.micro_batch_size = std::stoll(arguments[1]);
  options.gradient_accumulation_steps = std::stoll(arguments[2]);
  options.order = RowOrder::sequential;
  const BatchPlan plan(options);
  json steps = json::array();
  for (int64_t step = 0; step < std::stoll(arguments[3]); ++step) {
    json micro_batches = json::array();
    for (const MicroBatchData& batch : plan.training(dataset, step).micro_batches)
      micro_batches.push_back({{"ids", batch.token_ids},
                               {"labels", batch.labels},
                               {"positions", batch.positions},
                               {"document_starts", batch.document_starts}});
    steps.push_back(micro_batches);
  }
  return steps;
}

json loss_scale(std::span<char*> arguments) {
  Config config;
  config.compute_dtype = Dtype::f16;
  config.fp16_init_scale = std::stod(arguments[0]);
  config.fp16_growth_interval = std::stoll(arguments[1]);
  LossScale scale(config, std::nullopt);
  json scales = json::array();
  for (const char overflow : std::string(arguments[2])) {
    scales.push_back(scale.value());
    const bool skipped = scale.judge(1, {overflow == '1' ? INFINITY : 1.0, {}, {}}).has_value();
    SLUICE_CHECK(skipped == (overflow == '1'), "what overflows is skipped");
  }
  scales.push_back(scale.value());
  return scales;
}

json sample(std::span<char*> arguments) {
  const auto logits = json::parse(arguments[0]).get<std::vector<float>>();
  Sampler sampler({.temperature = std::stod(arguments[1]),
                   .top_p = std::stod(arguments[2]),
                   .top_k = std::stoll(arguments[3]),
                   .seed = std::stoull(arguments[4])});
  json tokens = json::array();
  for (int64_t i = 0; i < std::stoll(arguments[5]); ++i) tokens.push_back(sampler.pick(logits));
  return tokens;
}

json server(std::span<char*> arguments) {
  TextServer text(arguments[0]);
  const std::vector<int32_t> ids = text.encode(arguments[1]);
  text.stream_begin();
  std::string streamed;
  for (const int32_t id : ids) streamed += text.stream(std::span(&id, 1));
  streamed += text.stream_end();
  return {{"ids", ids}, {"decoded", text.decode(ids)}, {"streamed", streamed}, {"eos", text.eos_token_ids()}};
}

}  // namespace
}  // namespace sluice::train

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const std::span<char*> arguments(argv + 2, argv + std::max(2, argc));
  nlohmann::json answer;
  if (what == "schedule" && arguments.size() == 5) answer = sluice::train::schedule(arguments);
  if (what == "batches" && arguments.size() == 4) answer = sluice::train::batches(arguments);
  if (what == "loss_scale" && arguments.size() == 3) answer = sluice::train::loss_scale(arguments);
  if (what == "sample" && arguments.size() == 6) answer = sluice::train::sample(arguments);
  if (what == "server" && arguments.size() == 2) answer = sluice::train::server(arguments);
  if (answer.is_null()) {
    std::fprintf(stderr, "job_probe: see the head of its source for what it takes\n");
    return 2;
  }
  std::printf("%s\n", answer.dump().c_str());
  return 0;
}
