#include "runtime/train/trainer_state.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "runtime/core/json_nesting.h"
#include "runtime/core/result.h"

namespace sluice::train {
namespace {

using nlohmann::json;

constexpr const char* kStep = "global_step";
constexpr const char* kLossScale = "loss_scale";
constexpr const char* kScale = "scale";

void require(bool good, const std::string& what) {
  if (!good) throw SetupError(what, "");
}

bool is_count(const json& value) {
  return value.is_number_unsigned() && value.get<uint64_t>() <= std::numeric_limits<int64_t>::max();
}

void check_loss_scale(const json& state) {
  require(state.is_object(), "loss_scale is no object");
  const double scale = state.contains(kScale) && state[kScale].is_number() ? state[kScale].get<double>() : 0;
  require(scale >= LossScale::kFloor && std::isfinite(static_cast<float>(scale)), "loss_scale.scale is no loss scale");
  for (const char* key : {"steps_without_overflow", "skipped_steps", "overflows_at_floor"})
    require(state.contains(key) && is_count(state[key]), std::string("loss_scale.") + key + " is no count");
}

json checked(std::string_view text) {
  require(!nests_too_deep(text), "it nests too deep");
  json state = json::parse(text);
  require(state.is_object(), "it is no object");
  require(state.contains(kStep) && is_count(state[kStep]), "global_step is no count");
  for (const char* key : {"changeable", "model"})
    require(!state.contains(key) || state[key].is_object(), std::string(key) + " is no object");
  if (state.contains(kLossScale)) check_loss_scale(state[kLossScale]);
  return state;
}

}  // namespace

json parse_trainer_state(std::string_view text, const std::string& origin) {
  try {
    return checked(text);
  } catch (const json::exception& error) {
    throw SetupError(origin + " is damaged: " + error.what(), "");
  } catch (const SetupError& error) {
    throw SetupError(origin + " is damaged: " + error.error().message, "");
  }
}

int64_t step_in(const json& state) { return state.at(kStep).get<int64_t>(); }

std::optional<LossScaleState> loss_scale_in(const json& state) {
  if (!state.contains(kLossScale)) return std::nullopt;
  const json& values = state[kLossScale];
  return LossScaleState{values.at(kScale).get<double>(), values.at("steps_without_overflow").get<int64_t>(),
                        values.at("skipped_steps").get<int64_t>(), values.at("overflows_at_floor").get<int64_t>()};
}

nlohmann::ordered_json to_json(const LossScaleState& state) {
  return {{kScale, state.scale},
          {"steps_without_overflow", state.steps_without_overflow},
          {"skipped_steps", state.skipped_steps},
          {"overflows_at_floor", state.overflows_at_floor}};
}

}  // namespace sluice::train
