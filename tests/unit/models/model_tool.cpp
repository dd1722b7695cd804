// What models/ makes of a directory, as JSON, and the directory that it would write: for test_ecosystem.py.
//
//   model_tool spec    <config.json>
//   model_tool groups  <config.json>
//   model_tool index   <directory>
//   model_tool adapter <adapter directory> <config.json>
//   model_tool copy-model   <base> <output> <shard bytes>   every weight copied, in the base's own dtype
//   model_tool copy-adapter <base> <adapter> <output>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "models/adapter_files.h"
#include "models/decoder_groups.h"
#include "models/decoder_json.h"
#include "models/locate_weights.h"
#include "models/model_output.h"
#include "runtime/core/result.h"

namespace sluice::models {
namespace {

using ToolJson = nlohmann::ordered_json;
namespace fs = std::filesystem;

ToolJson groups_json(const DecoderSpec& spec) {
  ToolJson tensors = ToolJson::object();
  for (const ParameterGroup& group : decoder_groups(spec, {})) {
    for (const ParameterTensor& tensor : group.tensors) tensors[tensor.name] = tensor.shape;
  }
  return tensors;
}

nlohmann::json index_json(const fs::path& directory) {
  nlohmann::json tensors = nlohmann::json::object();  // an ordered object takes quadratic time
  for (const auto& [name, tensor] : TensorIndex::of_directory(directory).tensors) {
    tensors[name] = {{"dtype", name_of(tensor.dtype)}, {"shape", tensor.shape}, {"bytes", tensor.bytes}};
  }
  return tensors;
}

void write_directory(const ModelOutput& output, const TensorIndex& from, const GroupSources& sources,
                     const std::vector<ParameterGroup>& groups, const fs::path& directory) {
  fs::create_directories(directory);
  for (const PlannedTensorFile& file : output.tensor_files) {
    std::ofstream(directory / file.name, std::ios::binary) << file.layout.header;
    fs::resize_file(directory / file.name, static_cast<uintmax_t>(file.layout.file_bytes));
  }
  for (const PlannedTextFile& file : output.text_files) std::ofstream(directory / file.name) << file.text;
  for (const PlannedCopy& copy : output.copies) fs::copy_file(copy.from, directory / copy.name);
  for (size_t g = 0; g < groups.size(); ++g) {
    for (size_t i = 0; i < sources[g].size(); ++i) {
      const TensorLocation& source = sources[g][i];
      const TensorLocation& target = output.at(groups[g].tensors[i].name);
      std::string bytes(static_cast<size_t>(source.bytes), '\0');
      std::ifstream in(from.files[static_cast<size_t>(source.file)], std::ios::binary);
      in.seekg(source.offset).read(bytes.data(), source.bytes);
      std::fstream out(directory / output.tensor_files[static_cast<size_t>(target.file)].name,
                       std::ios::in | std::ios::out | std::ios::binary);
      out.seekp(target.offset).write(bytes.data(), target.bytes);
      if (!in || !out || source.bytes != target.bytes) throw std::runtime_error("copy failed: " + source.name);
    }
  }
}

void copy_model(const fs::path& base, const fs::path& directory, int64_t shard_bytes) {
  const DecoderSpec spec = read_decoder_spec(base / "config.json");
  const auto groups = decoder_groups(spec, {});
  const TensorIndex index = TensorIndex::of_directory(base);
  const GroupSources sources = locate_base_weights(index, spec, groups);
  const Dtype dtype = sources[0][0].dtype;
  write_directory(plan_model_output(base, groups, dtype, shard_bytes), index, sources, groups, directory);
}

void copy_adapter(const fs::path& base, const fs::path& adapter_directory, const fs::path& directory) {
  const DecoderSpec spec = read_decoder_spec(base / "config.json");
  const AdapterDirectory adapter = read_adapter_directory(adapter_directory, spec);
  const auto groups = decoder_groups(spec, adapter.spec);
  const GroupSources sources = locate_adapter_weights(adapter.tensors, groups);
  write_directory(plan_adapter_output(base, groups, adapter.spec), adapter.tensors, sources, groups, directory);
}

int run(const std::vector<std::string>& words) {
  const std::string& command = words.at(0);
  if (command == "spec") std::cout << to_json(read_decoder_spec(words.at(1)));
  if (command == "groups") std::cout << groups_json(read_decoder_spec(words.at(1)));
  if (command == "index") std::cout << index_json(words.at(1));
  if (command == "adapter") {
    const AdapterDirectory adapter = read_adapter_directory(words.at(1), read_decoder_spec(words.at(2)));
    std::cout << ToolJson{{"rank", adapter.spec.rank},
                          {"alpha", adapter.spec.alpha},
                          {"dropout", adapter.spec.dropout},
                          {"target_modules", adapter.spec.target_modules},
                          {"tensors", adapter.tensors.tensors.size()}};
  }
  if (command == "copy-model") copy_model(words.at(1), words.at(2), std::stoll(words.at(3)));
  if (command == "copy-adapter") copy_adapter(words.at(1), words.at(2), words.at(3));
  return 0;
}

}  // namespace
}  // namespace sluice::models

int main(int argc, char** argv) {
  try {
    return sluice::models::run({argv + 1, argv + argc});
  } catch (const sluice::SetupError& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}
