#include "runtime/train/generate.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <numeric>

#include "models/adapter_files.h"
#include "runtime/core/console.h"
#include "runtime/core/live_line.h"
#include "runtime/core/result.h"
#include "runtime/core/work_line.h"
#include "runtime/exec/source_table.h"
#include "runtime/plan/plan.h"
#include "runtime/train/model_setup.h"
#include "runtime/train/sampler.h"
#include "runtime/train/stored_tensors.h"
#include "runtime/train/tensor_file_writer.h"
#include "runtime/train/text_process.h"
#include "swap/host_slab.h"

namespace sluice::train {
namespace {

// All weights in memory, laid out as the programs read them.
class LoadedModel {
 public:
  LoadedModel(const std::filesystem::path& model, const std::filesystem::path& adapter, WorkObserver& observer) {
    Config config;
    config.base_model = model;
    config.adapter = adapter.empty() ? Adapter::none : Adapter::lora;
    config.lora_model_dir = adapter;
    setup_ = set_up_model(config, {});
    const Dtype stored = setup_.base.tensors.at(setup_.places[0][0].name).dtype;
    if (stored != Dtype::f32) {
      config.compute_dtype = stored;
      setup_ = set_up_model(config, {});
    }
    setup_.low_bits.make(setup_.stored, observer);
    int64_t bytes = 0;
    for (const models::ParameterGroup& group : setup_.model.groups) bytes += bytes_in_memory(group);
    Work work(observer, "loading the model", bytes, WorkUnit::bytes);
    for (size_t g = 0; g < setup_.model.groups.size(); ++g) {
      load_group(g);
      work.add(bytes_in_memory(setup_.model.groups[g]));
    }
  }

  const models::Model& model() const { return setup_.model; }
  std::vector<const void*> parameters(const models::BlockProgram& block) const {
    std::vector<const void*> all;
    for (int g : block.groups()) all.push_back(weights_[static_cast<size_t>(g)]->memory().data());
    return all;
  }

 private:
  int64_t bytes_in_memory(const models::ParameterGroup& group) const {
    return group.weight_bytes(setup_.model.compute_dtype);
  }

  void load_group(size_t g) {
    const models::ParameterGroup& group = setup_.model.groups[g];
    const bool adapter = models::is_adapter_group(group);
    const std::vector<std::filesystem::path>& files = adapter ? setup_.adapter_tensors->files : setup_.base.files;
    const exec::GroupSource source = exec::locate(group, setup_.places[g], 0, plan::Plan().chunk_elements);
    const Dtype dtype = setup_.model.compute_dtype;
    weights_.push_back(std::make_unique<swap::HostSlab>(Bytes{bytes_in_memory(group)}));
    std::vector<std::byte> staging(static_cast<size_t>(source.staging_bytes_max));
    for (size_t c = 0; c < source.chunks.size(); ++c) {
      const exec::SourceChunk& chunk = source.chunks[c];
      read_runs(files, chunk, staging);
      const int64_t begin = static_cast<int64_t>(c) * plan::Plan().chunk_elements;
      const int64_t end = std::min(begin + plan::Plan().chunk_elements, group.elements);
      exec::unpack_weights(chunk, staging, dtype, /*split=*/false, begin, end, begin,
                           weights_.back()->memory().data() + begin * group.weight_bytes_per_element(dtype));
    }
  }

  ModelSetup setup_;
  std::vector<std::unique_ptr<swap::HostSlab>> weights_;
};

// One sequence, position by position.
class Decoder {
 public:
  Decoder(const LoadedModel& loaded, int64_t positions_max) : loaded_(loaded), positions_max_(positions_max) {
    for (size_t b = 1; b + 1 < model().blocks.size(); ++b)
      caches_.push_back(std::make_unique<swap::HostSlab>(layer(b).cache_bytes(positions_max)));
    Bytes room{64};
    for (const auto& block : model().blocks) {
      const std::vector<uint8_t> none(block->slots().size(), 0);
      room = std::max(room, block->workspace_bytes(models::Pass::forward, positions_max, none));
    }
    workspace_ = std::make_unique<swap::HostSlab>(room);
    const Bytes boundary{positions_max * model().hidden * size_of(model().compute_dtype)};
    for (auto& each : boundaries_) each = std::make_unique<swap::HostSlab>(boundary);
  }

  // `ids` follow what was fed before.
  void feed(const std::vector<int32_t>& ids) {
    const auto count = static_cast<int64_t>(ids.size());
    std::vector<int32_t> positions(ids.size());
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(past_));
    const std::vector<int32_t> starts = {0, static_cast<int32_t>(count)}, labels(ids.size(), -100);
    models::MicroBatch batch;
    batch.tokens = count;
    batch.token_ids = ids;
    batch.labels = labels;
    batch.positions = positions;
    batch.document_starts = starts;
    for (size_t b = 0; b + 1 < model().blocks.size(); ++b) {
      const models::BlockProgram& block = *model().blocks[b];
      const std::vector<const void*> parameters = loaded_.parameters(block);
      const std::vector<void*> slots(block.slots().size(), nullptr);
      const models::ForwardArgs args{&batch,
                                     boundaries_[b % 2]->memory().data(),
                                     boundaries_[(b + 1) % 2]->memory().data(),
                                     parameters,
                                     slots,
                                     workspace_->memory()};
      if (b == 0) {
        block.forward(args);
      } else {
        layer(b).forward_cached(args, caches_[b - 1]->memory(), past_, positions_max_);
      }
    }
    past_ += count;
    fed_ = count;
  }

  // fp32 logits [V] after position `row` of what was fed last.
  std::vector<float> logits(int64_t row) const {
    std::vector<float> logits(static_cast<size_t>(model().vocabulary));
    const std::vector<int32_t> rows = {static_cast<int32_t>(row)};
    const models::HeadProgram& head = model().head();
    head.logits(boundaries_[(model().blocks.size() - 1) % 2]->memory().data(), rows, loaded_.parameters(head),
                logits.data(), workspace_->memory());
    return logits;
  }
  std::vector<float> last_logits() const { return logits(fed_ - 1); }

 private:
  const models::Model& model() const { return loaded_.model(); }
  const models::LayerProgram& layer(size_t b) const {
    return static_cast<const models::LayerProgram&>(*model().blocks[b]);
  }

  const LoadedModel& loaded_;
  int64_t positions_max_;
  int64_t past_ = 0, fed_ = 0;
  std::vector<std::unique_ptr<swap::HostSlab>> caches_;
  std::unique_ptr<swap::HostSlab> workspace_;
  std::array<std::unique_ptr<swap::HostSlab>, 2> boundaries_;
};

std::vector<int32_t> encode_prompt(TextServer& text, const GenerateOptions& options) {
  if (!options.system.empty() && !text.has_chat_template())
    throw SetupError(options.model.string() + " has no chat template, so there is no place for a system message",
                     "add chat_template.jinja to the model's folder, or write all of the prompt as --raw-prompt");
  if (options.raw || !text.has_chat_template()) return text.encode(options.prompt);
  std::vector<ChatMessage> messages;
  if (!options.system.empty()) messages.push_back({"system", options.system});
  messages.push_back({"user", options.prompt});
  return text.encode_chat(messages);
}

// token_ids [T] and logits [T, V] of the prompt.
void write_logits(Decoder& decoder, const std::vector<int32_t>& ids, int64_t vocabulary,
                  const std::filesystem::path& file) {
  const auto tokens = static_cast<int64_t>(ids.size());
  const models::TensorFileLayout layout =
      models::plan_tensor_file({{"token_ids", Dtype::i32, {tokens}}, {"logits", Dtype::f32, {tokens, vocabulary}}}, {});
  TensorFileWriter writer(file.has_parent_path() ? file.parent_path() : ".", file.filename(), layout);
  decoder.feed(ids);
  for (const models::TensorLocation& tensor : layout.tensors) {
    if (tensor.name == "token_ids") {
      writer.write(tensor.offset, std::as_bytes(std::span(ids)));
      continue;
    }
    for (int64_t row = 0; row < tokens; ++row)
      writer.write(tensor.offset + row * vocabulary * size_of(Dtype::f32),
                   std::as_bytes(std::span<const float>(decoder.logits(row))));
  }
  writer.sync();
}

}  // namespace

int generate_text(const GenerateOptions& options) {
  TextServer text(options.model);
  LiveLine live(STDERR_FILENO);
  Console errors(STDERR_FILENO, &live);
  WorkLine line(live, errors);
  const LoadedModel loaded(options.model, options.adapter, line);
  std::vector<int32_t> next = encode_prompt(text, options);
  if (next.empty()) throw SetupError("the prompt has no tokens", "give --prompt a text");
  const auto prompt = static_cast<int64_t>(next.size());
  if (options.max_new_tokens > loaded.model().positions_max - prompt)  // their sum may be too large for any number
    throw SetupError("prompt and new tokens are " + std::to_string(prompt) + " + " +
                         std::to_string(options.max_new_tokens) + " positions, the model has " +
                         std::to_string(loaded.model().positions_max),
                     "lower --max-new-tokens or shorten the prompt");
  Decoder decoder(loaded, prompt + options.max_new_tokens);
  if (!options.logits.empty()) {
    write_logits(decoder, next, loaded.model().vocabulary, options.logits);
    return 0;
  }
  Sampler sampler({options.temperature, options.top_p, options.top_k, options.seed});
  text.stream_begin();
  for (int64_t i = 0; i < options.max_new_tokens; ++i) {
    decoder.feed(next);
    const int32_t token = sampler.pick(decoder.last_logits());
    if (std::ranges::find(text.eos_token_ids(), token) != text.eos_token_ids().end()) break;
    next = {token};
    std::printf("%s", text.stream(next).c_str());
    std::fflush(stdout);
  }
  std::printf("%s\n", text.stream_end().c_str());
  return 0;
}

}  // namespace sluice::train
