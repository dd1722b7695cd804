#include "runtime/train/model_record.h"

#include <nlohmann/json.hpp>

#include "models/decoder_json.h"
#include "runtime/train/weights_sample.h"

namespace sluice::train {
nlohmann::ordered_json record_of(const ModelSetup& setup) {
  nlohmann::ordered_json record = models::to_json(setup.spec);
  if (setup.adapter) record["base_weights_checksum"] = sample_of(setup.stored);
  if (const std::string formats = setup.low_bits.description(); !formats.empty()) record["base_low_bits"] = formats;
  return record;
}

}  // namespace sluice::train
