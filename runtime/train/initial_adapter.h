// The file that a new adapter starts from.
#pragma once

#include <cstdint>
#include <filesystem>

#include "models/safetensors.h"
#include "runtime/core/work.h"
#include "runtime/train/model_setup.h"

namespace sluice::train {

// `any` is for who computes nothing with it: a base that magnitudes would come from is not read.
enum class AdapterValues { initial, any };

// Where its tensors lie in the file, which need not be there yet.
models::TensorFileLayout initial_adapter_layout(const ModelSetup& setup);

// As peft starts one: A uniform in +-1/sqrt(in), as by kaiming_uniform(sqrt 5); B zero; magnitudes the norms of the
// base's rows, which must be there. They are read in pieces, one matrix after another. Throws SetupError, RunError.
void write_initial_adapter(const ModelSetup& setup, uint64_t seed, AdapterValues values,
                           const std::filesystem::path& file, WorkObserver& observer = nobody());

}  // namespace sluice::train
