// Builds the programs of a decoder from its description.
#include "models/decoder.h"
#include "models/decoder_groups.h"
#include "models/embedding_program.h"
#include "models/head_program.h"
#include "models/layer_program.h"

namespace sluice::models {

Model build_decoder(const DecoderSpec& spec, const std::optional<AdapterSpec>& adapter, Dtype compute_dtype,
                    std::unique_ptr<Ops> owned_ops, const LowBitFormats& low_bits, bool own_loss) {
  Model model;
  const Ops* const ops = owned_ops.get();
  model.context = std::move(owned_ops);
  model.groups = decoder_groups(spec, adapter, {low_bits, compute_dtype});
  model.compute_dtype = compute_dtype;
  model.hidden = spec.hidden;
  model.vocabulary = spec.vocabulary;
  model.positions_max = spec.positions_max;
  const auto layout = [&](int group) { return &model.groups[static_cast<size_t>(group)]; };
  const auto rope = std::make_shared<RopeTable>(spec.rope, spec.head_dim, compute_dtype);

  int group = 0;
  model.blocks.push_back(make_embedding_program(*ops, spec, group, *layout(group), compute_dtype));
  for (int64_t i = 0; i < spec.layers; ++i) {
    LayerSetup layer{spec, adapter, compute_dtype, i, {++group}, {layout(group)}, low_bits, rope, ops};
    if (adapter) {
      layer.groups.push_back(++group);
      layer.layouts.push_back(layout(group));
    }
    model.blocks.push_back(make_layer_program(layer));
  }
  const int projection = spec.tied_head ? 0 : ++group;
  const int norm = ++group;
  model.blocks.push_back(
      make_head_program({spec, compute_dtype, {projection, norm}, {layout(projection), layout(norm)}, ops, own_loss}));
  return model;
}

}  // namespace sluice::models
