// Runs every block of a model forward and backward in memory, without planner or executor, and writes what came out
// for Python to compare: block_runner MODEL_DIR BATCH.json OUT.safetensors
// `block_runner --missing` prints why it cannot run here, or nothing.
// BATCH.json: {"dtype": "f32"|"bf16"|"f16", "gradient_dtype", "adapter": DIR or "", "dropout",
//              "keep": "all"|"none"|slot names, "loss_scale": as of fp16, or 1,
//              "smoothed": "host"|"gpu": a loss of one's own, and where it wants the logits,
//              "micro_batches": [{"documents": [[ids]...], "labels": [[ids or -100]...]}...]}
#include <sluice/tensors.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "models/adapter_files.h"
#include "models/decoder.h"
#include "models/locate_weights.h"
#include "models/safetensors.h"
#include "runtime/core/half.h"
#include "runtime/core/result.h"
#include "runtime/embed/own_loss.h"
#include "tests/blocks/block_device.h"

namespace {

using namespace sluice;
using namespace sluice::models;
using namespace sluice::block_device;

struct Aligned {
  explicit Aligned(int64_t bytes) : data(allocate(round_up(bytes + 64, 64))) {
    block_device::write(data, std::vector<std::byte>(static_cast<size_t>(bytes), std::byte{0x5a}));
  }
  Aligned(Aligned&& other) noexcept : data(std::exchange(other.data, nullptr)) {}
  ~Aligned() {
    finish();
    if (data != nullptr) release(data);
  }
  std::byte* data;
};

std::vector<float> read_tensor(const TensorIndex& index, const TensorLocation& at, int64_t elements) {
  std::ifstream file(index.files[static_cast<size_t>(at.file)], std::ios::binary);
  std::vector<char> raw(static_cast<size_t>(at.bytes));
  file.seekg(at.offset);
  file.read(raw.data(), at.bytes);
  std::vector<float> values(static_cast<size_t>(elements));
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t half = 0;
    if (at.dtype == Dtype::f32) {
      std::memcpy(&values[i], raw.data() + 4 * i, 4);
    } else {
      std::memcpy(&half, raw.data() + 2 * i, 2);
      values[i] = at.dtype == Dtype::bf16 ? bf16_to_float(half) : f16_to_float(half);
    }
  }
  return values;
}

struct Batch {
  std::vector<int32_t> ids, labels, positions, starts{0};
};

Batch batch_of(const nlohmann::json& json) {
  Batch batch;
  for (size_t d = 0; d < json["documents"].size(); ++d) {
    const auto ids = json["documents"][d].get<std::vector<int32_t>>();
    const auto labels = json["labels"][d].get<std::vector<int32_t>>();
    for (size_t i = 0; i < ids.size(); ++i) {
      batch.ids.push_back(ids[i]);
      batch.labels.push_back(i + 1 < ids.size() ? labels[i + 1] : -100);
      batch.positions.push_back(static_cast<int32_t>(i));
    }
    batch.starts.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  return batch;
}

Dtype dtype_of(const std::string& name) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16})
    if (name_of(dtype) == name) return dtype;
  throw std::runtime_error("no such type: " + name);
}

// Label smoothing of a tenth, by LibTorch.
const sluice::Loss& smoothed() {
  static const sluice::Loss loss = sluice::loss_of([](const at::Tensor& logits_RV, const at::Tensor& labels_R) {
    return at::cross_entropy_loss(logits_RV, labels_R, {}, at::Reduction::Sum, -100, /*label_smoothing=*/0.1);
  });
  return loss;
}

class Runner {
 public:
  Runner(const std::string& directory, const nlohmann::json& request)
      : dtype_(dtype_of(request["dtype"])), gradient_dtype_(dtype_of(request["gradient_dtype"])), request_(request) {
    const DecoderSpec spec = read_decoder_spec(directory + "/config.json");
    const TensorIndex base = TensorIndex::of_directory(directory);
    std::optional<AdapterSpec> adapter;
    std::optional<AdapterDirectory> from;
    if (request["adapter"] != "") {
      from = read_adapter_directory(request["adapter"].get<std::string>(), spec);
      adapter = from->spec;
      adapter->dropout = request.value("dropout", 0.0);
    }
    if (request.contains("smoothed"))
      loss_ = std::make_unique<embed::OwnLoss>(
          smoothed(), request["smoothed"] == "gpu" ? sluice::LossPlace::gpu : sluice::LossPlace::host);
    model_ = build_decoder(spec, adapter, dtype_, make_ops(), {}, loss_ != nullptr);
    load(base, locate_base_weights(base, spec, model_.groups), false);
    if (from) load(from->tensors, locate_adapter_weights(from->tensors, model_.groups), true);
    for (const ParameterGroup& group : model_.groups)
      gradients_.emplace_back(group.elements * size_of(gradient_dtype_));
  }

  double run() {
    double supervised = 0;
    std::vector<Batch> batches;
    for (const auto& json : request_["micro_batches"]) batches.push_back(batch_of(json));
    for (const Batch& batch : batches)
      supervised += static_cast<double>(
          std::count_if(batch.labels.begin(), batch.labels.end(), [](int32_t l) { return l >= 0; }));
    double loss = 0;
    std::vector<MicroBatch> views = views_of(batches, request_.value("loss_scale", 1.0) / supervised);
    for (MicroBatch& view : views) view.loss = loss_.get();
    model_.context->place(views);
    for (const MicroBatch& batch : views) loss += step(batch) / supervised;
    return loss;
  }

  void write(const std::string& path, double loss) const {
    std::vector<NewTensor> tensors;
    for (const ParameterGroup& group : model_.groups)
      if (group.trainable)
        for (const ParameterTensor& tensor : group.tensors)
          tensors.push_back({tensor.name, gradient_dtype_, tensor.shape});
    const TensorFileLayout layout =
        plan_tensor_file(tensors, {{"loss", std::to_string(loss)}, {"gaps_are_zero", gaps_are_zero() ? "yes" : "no"}});
    std::ofstream out(path, std::ios::binary);
    out << layout.header;
    for (size_t g = 0; g < model_.groups.size(); ++g) {
      const ParameterGroup& group = model_.groups[g];
      if (!group.trainable) continue;
      const std::vector<std::byte> gradient = gradient_of(g);
      for (const ParameterTensor& tensor : group.tensors) {
        const auto place = std::find_if(layout.tensors.begin(), layout.tensors.end(),
                                        [&](const auto& t) { return t.name == tensor.name; });
        out.seekp(place->offset);
        out.write(reinterpret_cast<const char*>(gradient.data() + tensor.offset * size_of(gradient_dtype_)),
                  place->bytes);
      }
    }
  }

 private:
  void load(const TensorIndex& index, const GroupSources& places, bool adapters) {
    weights_.resize(model_.groups.size());
    for (size_t g = 0; g < model_.groups.size(); ++g) {
      if (is_adapter_group(model_.groups[g]) != adapters) continue;
      const ParameterGroup& group = model_.groups[g];
      std::vector<std::byte> weights(static_cast<size_t>(group.elements * size_of(dtype_)));
      for (size_t t = 0; t < group.tensors.size(); ++t) {
        const std::vector<float> values = read_tensor(index, places[g][t], group.tensors[t].elements);
        for (size_t i = 0; i < values.size(); ++i) {
          std::byte* to = weights.data() + (group.tensors[t].offset + static_cast<int64_t>(i)) * size_of(dtype_);
          const uint16_t half = dtype_ == Dtype::f16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
          dtype_ == Dtype::f32 ? std::memcpy(to, &values[i], 4) : std::memcpy(to, &half, 2);
        }
      }
      weights_[g] = std::make_unique<Aligned>(static_cast<int64_t>(weights.size()));
      block_device::write(weights_[g]->data, weights);
    }
  }

  std::vector<const void*> parameters(const BlockProgram& block) const {
    std::vector<const void*> all;
    for (int g : block.groups()) all.push_back(weights_[static_cast<size_t>(g)]->data);
    return all;
  }

  std::vector<uint8_t> kept(const BlockProgram& block) const {
    std::vector<uint8_t> mask;
    for (const SlotSpec& slot : block.slots()) {
      const auto& keep = request_["keep"];
      mask.push_back(keep == "all" ||
                     (keep.is_array() && std::find(keep.begin(), keep.end(), slot.name) != keep.end()));
    }
    return mask;
  }

  static std::vector<MicroBatch> views_of(const std::vector<Batch>& batches, double loss_scale) {
    std::vector<MicroBatch> views;
    for (const Batch& data : batches)
      views.push_back({static_cast<int64_t>(data.ids.size()), data.ids, data.labels, data.positions, data.starts,
                       loss_scale, 7, 1, views.size()});
    return views;
  }

  double step(const MicroBatch& batch) {
    const int64_t boundary = batch.tokens * model_.hidden * size_of(dtype_);
    std::vector<Aligned> boundaries;
    std::vector<std::vector<Aligned>> slots(model_.blocks.size());
    std::vector<std::vector<void*>> pointers(model_.blocks.size());
    for (size_t b = 0; b + 1 < model_.blocks.size(); ++b) {
      const BlockProgram& block = *model_.blocks[b];
      const std::vector<uint8_t> mask = kept(block);
      for (size_t s = 0; s < mask.size(); ++s) {
        const SlotSpec& slot = block.slots()[s];
        slots[b].emplace_back(batch.tokens * slot.elements_per_token * size_of(slot.dtype));
        pointers[b].push_back(mask[s] != 0 ? slots[b].back().data : nullptr);
      }
      boundaries.emplace_back(boundary);
      const Bytes room = block.workspace_bytes(Pass::forward, batch.tokens, mask);
      Aligned workspace(room.count);
      const auto weights = parameters(block);
      block.forward({&batch,
                     b == 0 ? nullptr : boundaries[b - 1].data,
                     boundaries[b].data,
                     weights,
                     pointers[b],
                     {workspace.data, static_cast<size_t>(room.count)}});
    }
    Aligned gradient(boundary);
    OpReport& report = model_.context->reports(1)[0];
    for (size_t b = model_.blocks.size(); b-- > 0;) {
      const BlockProgram& block = *model_.blocks[b];
      const std::vector<uint8_t> mask = kept(block);
      const Bytes room = block.workspace_bytes(Pass::backward, batch.tokens, mask);
      Aligned workspace(room.count);
      const auto weights = parameters(block);
      std::vector<void*> into;
      std::vector<uint8_t> accumulate;
      for (int g : block.groups()) {
        const bool trained = model_.groups[static_cast<size_t>(g)].trainable;
        into.push_back(trained ? gradients_[static_cast<size_t>(g)].data : nullptr);
        accumulate.push_back(begun_.count(g) != 0);
        begun_.insert(g);
      }
      const std::vector<const void*> found(pointers[b].begin(), pointers[b].end());
      const bool last = b + 1 == model_.blocks.size();
      const BackwardArgs args{&batch,
                              b == 0 ? nullptr : boundaries[b - 1].data,
                              last ? nullptr : gradient.data,
                              b == 0 ? nullptr : gradient.data,
                              weights,
                              into,
                              accumulate,
                              gradient_dtype_,
                              found,
                              {workspace.data, static_cast<size_t>(room.count)}};
      last ? model_.head().loss(args, report) : block.backward(args);
    }
    finish();
    return report.loss_sum;
  }

  std::vector<std::byte> gradient_of(size_t g) const {
    return read(gradients_[g].data, model_.groups[g].elements * size_of(gradient_dtype_));
  }

  bool gaps_are_zero() const {
    for (size_t g = 0; g < model_.groups.size(); ++g) {
      const ParameterGroup& group = model_.groups[g];
      if (!group.trainable) continue;
      std::vector<uint8_t> used(static_cast<size_t>(group.elements), 0);
      for (const ParameterTensor& tensor : group.tensors)
        std::fill_n(used.begin() + tensor.offset, tensor.elements, uint8_t{1});
      const std::vector<std::byte> gradient = gradient_of(g);
      const auto each = static_cast<size_t>(size_of(gradient_dtype_));
      for (size_t i = 0; i < used.size(); ++i)
        for (size_t byte = 0; used[i] == 0 && byte < each; ++byte)
          if (gradient[i * each + byte] != std::byte{0}) return false;
    }
    return true;
  }

  Dtype dtype_, gradient_dtype_;
  nlohmann::json request_;
  std::unique_ptr<embed::OwnLoss> loss_;
  Model model_;
  std::vector<std::unique_ptr<Aligned>> weights_;
  std::vector<Aligned> gradients_;
  std::set<int> begun_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--missing") {
    std::printf("%s", missing().c_str());
    return 0;
  }
  if (argc != 4) return 2;
  try {
    std::ifstream file(argv[2]);
    Runner runner(argv[1], nlohmann::json::parse(file));
    const double loss = runner.run();
    runner.write(argv[3], loss);
    std::printf("%.9g\n", loss);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "block_runner: %s\n", error.what());
    return 2;
  }
}
