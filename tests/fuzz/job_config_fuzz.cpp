// A job's YAML, up to the steps and learning rates that it asks for.
#include "runtime/train/config.h"
#include "runtime/train/data.h"
#include "runtime/train/lr_schedule.h"
#include "tests/fuzz/fuzz_folder.h"

namespace sluice::fuzz {
namespace {

class JobFolder : public FuzzFolder {
 public:
  JobFolder() {
    write("model/tokenizer_config.json", R"({"eos_token": "</s>", "pad_token": {"content": "<pad>"}})");
    write("data.jsonl", "{}\n");
  }
};

// Of a dataset with a few rows.
void walk(const train::Config& config) {
  const train::BatchPlan batches(config, 7);
  SLUICE_CHECK(batches.steps_total() > 0, "a job without a step");
  for (const int64_t times : {config.evals_per_epoch, config.saves_per_epoch})
    SLUICE_CHECK(times == 0 || batches.every(times) >= 1, "no step between two times");
  const train::LearningRate rate(config, batches.steps_total());
  for (const int64_t step : {int64_t{0}, batches.steps_total() / 2, batches.steps_total() - 1}) {
    for (const std::vector<int64_t>& rows : batches.rows_of(step))
      SLUICE_CHECK(!rows.empty() && rows.size() <= 7, "a micro-batch of other rows");
    SLUICE_CHECK(rate.at(step) >= 0 && rate.at(step) <= config.learning_rate, "a learning rate above its peak");
  }
}

}  // namespace
}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  static const fuzz::JobFolder folder;
  fuzz::JobFolder::write("job.yaml", fuzz::text_of(data, bytes));
  fuzz::accepts([] { fuzz::walk(train::load_config("job.yaml")); });
  return 0;
}
