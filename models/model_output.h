// The files of a result directory, as data: what the trainer has to write, with final sizes and offsets, before it
// writes anything. Disk space can be reserved from it and tensors streamed to their places in any order.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "models/parameter_group.h"
#include "models/safetensors.h"

namespace sluice::models {

struct PlannedTensorFile {
  std::string name;  // "model-00001-of-00002.safetensors"
  TensorFileLayout layout;
};
struct PlannedTextFile {
  std::string name;
  std::string text;
};
struct PlannedCopy {
  std::filesystem::path from;
  std::string name;  // in the result directory, may lie in a subfolder ("additional_chat_templates/x.jinja")
};

struct ModelOutput {
  std::vector<PlannedTensorFile> tensor_files;
  std::vector<PlannedTextFile> text_files;
  std::vector<PlannedCopy> copies;

  // Where a tensor of the groups goes: TensorLocation::file is an index into tensor_files. Aborts when not planned.
  const TensorLocation& at(const std::string& tensor) const;
  int64_t file_bytes() const;  // of all files together

  std::map<std::string, TensorLocation> locations;
};

// What a whole model copies from its base. Throws SetupError when one of them is a link that leaves the folder: asked
// for before anything is trained.
std::vector<PlannedCopy> copies_of(const std::filesystem::path& base_model);

// The Hugging Face convention: one model.safetensors up to this size, numbered shards and an index above it.
inline constexpr int64_t kShardBytesMax = 5'000'000'000;

// A whole model: `groups` as decoder_groups() gives them without an adapter, weights stored as `written`.
// config.json is the base's with the dtype set and no quantization_config; generation_config.json and the tokenizer's
// files are copied when there.
ModelOutput plan_model_output(const std::filesystem::path& base_model, const std::vector<ParameterGroup>& groups,
                              Dtype written, int64_t shard_bytes_max = kShardBytesMax);

// The same, each tensor stored as `written` says of its name. config.json stays as it is.
using WrittenAs = std::function<Dtype(const std::string& tensor)>;
ModelOutput plan_model_output(const std::filesystem::path& base_model, const std::vector<ParameterGroup>& groups,
                              const WrittenAs& written, int64_t shard_bytes_max = kShardBytesMax);

// An adapter: the adapter groups among `groups`, with adapter_config.json; the tokenizer's files are copied too, so
// that the directory can be served alone. Written f32 unless asked otherwise, as peft keeps adapters.
ModelOutput plan_adapter_output(const std::filesystem::path& base_model, const std::vector<ParameterGroup>& groups,
                                const AdapterSpec& adapter, Dtype written = Dtype::f32);

}  // namespace sluice::models
