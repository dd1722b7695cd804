// A DecoderSpec as JSON: every number of it, for records and for comparison.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "models/decoder.h"

namespace sluice::models {

nlohmann::ordered_json to_json(const DecoderSpec& spec);

}  // namespace sluice::models
