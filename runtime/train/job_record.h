// What a checkpoint remembers of its job file, and what a job that goes on from it may change.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "runtime/train/config.h"

namespace sluice::train {

// By key, as the checkpoint's trainer_state.json holds it.
nlohmann::ordered_json record_of(const Config& config);

// Throws SetupError when rows, masks or arithmetic would be others than before: "checkpoint-5 was written by another
// job: sequence_len is 48 there and 32 here". Keys that an older version did not record are not compared.
void refuse_other_record(const nlohmann::json& recorded, const nlohmann::ordered_json& ours, const std::string& what);

// Of what may be changed on purpose, a line each: "resuming with learning_rate 2e-05, the checkpoint was trained with
// 1e-05".
std::vector<std::string> changes_since(const nlohmann::json& recorded, const Config& config);

}  // namespace sluice::train
