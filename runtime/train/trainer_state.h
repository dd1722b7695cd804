// trainer_state.json of a checkpoint as a value: read strictly, so that a damaged one is named and not converted.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/train/loss_scale.h"

namespace sluice::train {

// Throws SetupError without a hint: "<origin> is damaged: ...". Keys that are not read here may hold anything.
nlohmann::json parse_trainer_state(std::string_view text, const std::string& origin);

// Of what that returned.
int64_t step_in(const nlohmann::json& state);
std::optional<LossScaleState> loss_scale_in(const nlohmann::json& state);  // of fp16

nlohmann::ordered_json to_json(const LossScaleState& state);

}  // namespace sluice::train
