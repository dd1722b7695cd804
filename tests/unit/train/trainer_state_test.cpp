// trainer_state.json: what is there is read as it was written, and what is damaged is named, not converted.
#include "runtime/train/trainer_state.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

constexpr LossScaleState kScale{
    .scale = 1024, .steps_without_overflow = 3, .skipped_steps = 2, .overflows_at_floor = 1};

nlohmann::ordered_json good_state() { return {{"global_step", 7}, {"loss_scale", to_json(kScale)}, {"seed", 42}}; }

std::string refusal_of(const std::string& text) {
  try {
    parse_trainer_state(text, "state.json");
  } catch (const SetupError& error) {
    return error.error().message;
  }
  return "accepted";
}

TEST(TrainerState, is_read_as_it_was_written) {
  const nlohmann::json state = parse_trainer_state(good_state().dump(), "state.json");
  EXPECT_EQ(step_in(state), 7);
  EXPECT_EQ(loss_scale_in(state), kScale);
  EXPECT_EQ(loss_scale_in(parse_trainer_state(R"({"global_step":0})", "state.json")), std::nullopt);
}

TEST(TrainerState, that_is_damaged_is_refused_by_name) {
  struct Change {
    const char *place, *value, *message;
  };
  for (const Change& change : {Change{"/global_step", "-1", "global_step is no count"},
                               {"/global_step", "7.5", "global_step is no count"},
                               {"/global_step", "9223372036854775808", "global_step is no count"},
                               {"/global_step", "null", "global_step is no count"},
                               {"/loss_scale", "65536", "loss_scale is no object"},
                               {"/loss_scale/scale", "0", "loss_scale.scale is no loss scale"},
                               {"/loss_scale/scale", "1e300", "loss_scale.scale is no loss scale"},
                               {"/loss_scale/scale", "\"65536\"", "loss_scale.scale is no loss scale"},
                               {"/loss_scale/skipped_steps", "-2", "loss_scale.skipped_steps is no count"},
                               {"/loss_scale/overflows_at_floor", "1e300", "loss_scale.overflows_at_floor is no count"},
                               {"/changeable", "[]", "changeable is no object"},
                               {"/model", "\"llama\"", "model is no object"}}) {
    nlohmann::json state = good_state();
    state[nlohmann::json::json_pointer(change.place)] = nlohmann::json::parse(change.value);
    EXPECT_EQ(refusal_of(state.dump()), std::string("state.json is damaged: ") + change.message);
  }
}

TEST(TrainerState, in_which_something_is_missing_is_refused_by_its_name) {
  for (const auto& [place, message] :
       {std::pair("/global_step", "global_step is no count"),
        {"/loss_scale/scale", "loss_scale.scale is no loss scale"},
        {"/loss_scale/steps_without_overflow", "loss_scale.steps_without_overflow is no count"}}) {
    nlohmann::json state = good_state();
    const nlohmann::json::json_pointer at(place);
    state[at.parent_pointer()].erase(at.back());
    EXPECT_EQ(refusal_of(state.dump()), std::string("state.json is damaged: ") + message);
  }
}

TEST(TrainerState, that_is_no_json_or_nests_without_end_is_refused) {
  EXPECT_TRUE(refusal_of("{").starts_with("state.json is damaged: ")) << refusal_of("{");
  EXPECT_EQ(refusal_of("[7]"), "state.json is damaged: it is no object");
  EXPECT_EQ(refusal_of(R"({"seed":)" + std::string(1'000'000, '[')), "state.json is damaged: it nests too deep");
}

}  // namespace
}  // namespace sluice::train
