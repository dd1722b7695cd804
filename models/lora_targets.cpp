// Which projections of the layers a LoRA adapter sits on: peft's matching rule (an entry names a module, or the end of
// its dotted path), for adapters that treat every layer alike.
#include <algorithm>
#include <array>

#include "models/decoder.h"
#include "models/decoder_groups.h"
#include "runtime/core/result.h"

namespace sluice::models {

namespace {

constexpr std::string_view kAllLinear = "all-linear";  // peft's shorthand: every linear layer but the head

std::string joined_modules(const std::vector<ProjectionShape>& projections) {
  std::string list;
  for (const ProjectionShape& projection : projections) list += std::string(projection.module) + ", ";
  return list + std::string(kAllLinear);
}

[[noreturn]] void refuse_target(const std::string& asked, const DecoderSpec& spec,
                                const std::vector<ProjectionShape>& projections) {
  constexpr std::array<std::string_view, 4> kOutsideLayers = {"embed_tokens", "lm_head", "model.embed_tokens", "norm"};
  const bool outside = std::find(kOutsideLayers.begin(), kOutsideLayers.end(), asked) != kOutsideLayers.end();
  const bool one_layer = asked.find("layers.") != std::string::npos;
  std::string why = "matches no module of this " + spec.family + " model";
  if (outside) why = "is not inside the layers: an adapter there is not supported";
  if (one_layer) why = "names single layers: an adapter on some layers only is not supported";
  throw SetupError(Error{outside || one_layer ? ErrorCode::unsupported : ErrorCode::invalid_input,
                         "lora_target_modules: '" + asked + "' " + why, "these exist: " + joined_modules(projections)});
}

}  // namespace

std::vector<std::string> resolve_lora_targets(const DecoderSpec& spec, const std::vector<std::string>& asked,
                                              bool linear) {
  const std::vector<ProjectionShape> projections = layer_projections(spec);
  std::array<bool, kProjectionCount> chosen{};
  if (linear) chosen.fill(true);
  for (const std::string& entry : asked) {
    if (entry == kAllLinear) {
      chosen.fill(true);
      continue;
    }
    const auto matched = std::find_if(projections.begin(), projections.end(), [&](const ProjectionShape& projection) {
      return entry == projection.module || entry == projection.module_path;
    });
    if (matched == projections.end()) refuse_target(entry, spec, projections);
    chosen[static_cast<size_t>(matched->projection)] = true;
  }
  std::vector<std::string> targets;
  for (const ProjectionShape& projection : projections) {
    if (chosen[static_cast<size_t>(projection.projection)]) targets.emplace_back(projection.module);
  }
  if (targets.empty()) {
    throw SetupError("a LoRA adapter with no target",
                     "set lora_target_linear: true, or lora_target_modules to some of: " + joined_modules(projections));
  }
  return targets;
}

}  // namespace sluice::models
