// trainer_state.json of a checkpoint, and the comparison of what it remembers with a job.
#include <cmath>
#include <nlohmann/json.hpp>

#include "runtime/train/job_record.h"
#include "runtime/train/trainer_state.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  static const train::Config config{.file = {}, .base_model = "model"};
  const std::string text(fuzz::text_of(data, bytes));
  nlohmann::json state;
  if (!fuzz::accepts([&] { state = train::parse_trainer_state(text, "trainer_state.json"); })) return 0;
  SLUICE_CHECK(train::step_in(state) >= 0, "a negative step");
  if (const auto scale = train::loss_scale_in(state))
    SLUICE_CHECK(std::isfinite(scale->scale) && scale->scale > 0 && scale->skipped_steps >= 0, "no loss scale");
  fuzz::accepts([&] { train::refuse_other_record(state, train::record_of(config), "checkpoint-1"); });
  (void)train::changes_since(state, config);
  return 0;
}
