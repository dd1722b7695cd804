#include "models/model_output.h"

#include <algorithm>
#include <array>

#include "models/adapter_files.h"
#include "models/json_file.h"
#include "models/locate_weights.h"
#include "models/model_folder.h"
#include "runtime/core/check.h"
#include "runtime/core/result.h"

namespace sluice::models {

namespace fs = std::filesystem;

namespace {

constexpr std::array kTokenizerFiles = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "vocab.txt",
                                        "merges.txt",
                                        "tokenizer.model",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        "sentencepiece.bpe.model"};
constexpr const char* kMoreTemplates = "additional_chat_templates";
constexpr const char* kGenerationConfig = "generation_config.json";

// A copy of what a link points to would publish another file with the result.
void copy_if_there(std::vector<PlannedCopy>& copies, const fs::path& base_model, const std::string& name) {
  std::error_code code;
  if (!fs::is_regular_file(base_model / name, code)) return;
  refuse_link_out(base_model, name);
  copies.push_back({base_model / name, name});
}

void add_tokenizer_copies(std::vector<PlannedCopy>& copies, const fs::path& base_model) {
  for (const char* name : kTokenizerFiles) copy_if_there(copies, base_model, name);
  std::error_code code;
  std::vector<std::string> templates;
  for (const auto& entry : fs::directory_iterator(base_model / kMoreTemplates, code))
    templates.push_back(entry.path().filename());
  std::sort(templates.begin(), templates.end());  // a directory lists its files in no order
  for (const std::string& name : templates) copy_if_there(copies, base_model, std::string(kMoreTemplates) + "/" + name);
}

const char* torch_name(Dtype dtype) {
  if (dtype == Dtype::f32) return "float32";
  if (dtype == Dtype::bf16) return "bfloat16";
  SLUICE_CHECK(dtype == Dtype::f16, "models are written as f32, bf16 or f16");
  return "float16";
}

// transformers 5 reads either key, older releases only torch_dtype: keep what the base has.
std::string config_with_dtype(const fs::path& base_model, Dtype written) {
  Json config = read_json_object(base_model / "config.json");
  config.erase("quantization_config");  // what is written is plain
  const bool has_new = config.contains("dtype");
  if (has_new) config["dtype"] = torch_name(written);
  if (!has_new || config.contains("torch_dtype")) config["torch_dtype"] = torch_name(written);
  return config.dump(2) + "\n";
}

int64_t bytes_of(const NewTensor& tensor) {
  int64_t bytes = size_of(tensor.dtype);
  for (const int64_t dimension : tensor.shape) bytes *= dimension;
  return bytes;
}

// In order; a shard closes when the next tensor would take it over the limit. One tensor above it stands alone.
std::vector<std::vector<NewTensor>> split_into_shards(const std::vector<NewTensor>& tensors, int64_t shard_bytes_max) {
  std::vector<std::vector<NewTensor>> shards;
  int64_t shard_bytes = 0;
  for (const NewTensor& tensor : tensors) {
    const int64_t bytes = bytes_of(tensor);
    if (shards.empty() || shard_bytes + bytes > shard_bytes_max) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shards.back().push_back(tensor);
    shard_bytes += bytes;
  }
  return shards;
}

void add_tensor_file(ModelOutput& output, const std::string& name, const std::vector<NewTensor>& tensors) {
  PlannedTensorFile file{name, plan_tensor_file(tensors, {{"format", "pt"}})};
  for (TensorLocation& tensor : file.layout.tensors) {
    tensor.file = static_cast<int>(output.tensor_files.size());
    output.locations.emplace(tensor.name, tensor);
  }
  output.tensor_files.push_back(std::move(file));
}

std::string shard_index_json(const ModelOutput& output) {
  int64_t bytes = 0;
  int64_t parameters = 0;
  SortedJson weight_map = SortedJson::object();
  for (const auto& [name, tensor] : output.locations) {
    bytes += tensor.bytes;
    parameters += tensor.bytes / size_of(tensor.dtype);
    weight_map[name] = output.tensor_files[static_cast<size_t>(tensor.file)].name;
  }
  const SortedJson index = {{"metadata", {{"total_parameters", parameters}, {"total_size", bytes}}},
                            {"weight_map", weight_map}};
  return index.dump(2) + "\n";
}

std::vector<NewTensor> tensors_to_write(const std::vector<ParameterGroup>& groups, bool adapters,
                                        const WrittenAs& written) {
  std::vector<NewTensor> tensors;
  for (const ParameterGroup& group : groups) {
    if (is_adapter_group(group) != adapters) continue;
    for (const ParameterTensor& tensor : group.tensors)
      tensors.push_back({tensor.name, written(tensor.name), tensor.shape});
  }
  SLUICE_CHECK(!tensors.empty(), "no group of this kind to write");
  return tensors;
}

WrittenAs all_as(Dtype written) {
  return [written](const std::string&) { return written; };
}

ModelOutput plan_model(const fs::path& base_model, const std::vector<ParameterGroup>& groups, const WrittenAs& written,
                       const std::string& config, int64_t shard_bytes_max) {
  ModelOutput output;
  const auto shards = split_into_shards(tensors_to_write(groups, false, written), shard_bytes_max);
  for (size_t i = 0; i < shards.size(); ++i)
    add_tensor_file(output, shards.size() == 1 ? "model.safetensors" : shard_name("model", i, shards.size()),
                    shards[i]);
  if (shards.size() > 1) output.text_files.push_back({"model.safetensors.index.json", shard_index_json(output)});
  output.text_files.push_back({"config.json", config});
  output.copies = copies_of(base_model);
  return output;
}

}  // namespace

std::vector<PlannedCopy> copies_of(const fs::path& base_model) {
  std::vector<PlannedCopy> copies;
  copy_if_there(copies, base_model, kGenerationConfig);
  add_tokenizer_copies(copies, base_model);
  return copies;
}

const TensorLocation& ModelOutput::at(const std::string& tensor) const {
  const auto found = locations.find(tensor);
  SLUICE_CHECK(found != locations.end(), "no place planned for tensor " + tensor);
  return found->second;
}

int64_t ModelOutput::file_bytes() const {
  int64_t bytes = 0;
  for (const PlannedTensorFile& file : tensor_files) bytes += file.layout.file_bytes;
  for (const PlannedTextFile& file : text_files) bytes += static_cast<int64_t>(file.text.size());
  for (const PlannedCopy& copy : copies) bytes += static_cast<int64_t>(fs::file_size(copy.from));
  return bytes;
}

ModelOutput plan_model_output(const fs::path& base_model, const std::vector<ParameterGroup>& groups, Dtype written,
                              int64_t shard_bytes_max) {
  return plan_model(base_model, groups, all_as(written), config_with_dtype(base_model, written), shard_bytes_max);
}

ModelOutput plan_model_output(const fs::path& base_model, const std::vector<ParameterGroup>& groups,
                              const WrittenAs& written, int64_t shard_bytes_max) {
  const std::string config = read_json_object(base_model / "config.json").dump(2) + "\n";
  return plan_model(base_model, groups, written, config, shard_bytes_max);
}

ModelOutput plan_adapter_output(const fs::path& base_model, const std::vector<ParameterGroup>& groups,
                                const AdapterSpec& adapter, Dtype written) {
  ModelOutput output;
  add_tensor_file(output, kAdapterWeightsFile, tensors_to_write(groups, true, all_as(written)));
  output.text_files.push_back(
      {kAdapterConfigFile, adapter_config_json(adapter, fs::absolute(base_model).lexically_normal())});
  add_tokenizer_copies(output.copies, base_model);
  return output;
}

}  // namespace sluice::models
