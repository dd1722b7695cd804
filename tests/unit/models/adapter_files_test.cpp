#include "models/adapter_files.h"

#include <gtest/gtest.h>

#include "models/decoder_groups.h"
#include "models/locate_weights.h"
#include "tests/unit/models/test_files.h"

namespace sluice::models {
namespace {

using TestJson = nlohmann::ordered_json;

DecoderSpec small_spec() {
  const TemporaryFolder folder;
  return read_decoder_spec(folder.write("config.json", config_of("llama").dump()));
}

AdapterSpec small_adapter() { return {4, 8, 0.1, {"q_proj", "down_proj"}}; }

TestJson good_config() { return TestJson::parse(adapter_config_json(small_adapter(), "/models/base")); }

std::vector<NewTensor> good_tensors() {
  std::vector<NewTensor> tensors;
  for (const ParameterGroup& group : decoder_groups(small_spec(), small_adapter())) {
    if (!is_adapter_group(group)) continue;
    for (const ParameterTensor& tensor : group.tensors) tensors.push_back({tensor.name, Dtype::f32, tensor.shape});
  }
  return tensors;
}

void write_adapter(const TemporaryFolder& folder, const TestJson& config, const std::vector<NewTensor>& tensors) {
  folder.write(kAdapterConfigFile, config.dump());
  folder.write(kAdapterWeightsFile, planned_safetensors(tensors));
}

TEST(AdapterDirectory, OursIsReadBack) {
  const TemporaryFolder folder;
  write_adapter(folder, good_config(), good_tensors());
  const DecoderSpec spec = small_spec();
  const AdapterDirectory adapter = read_adapter_directory(folder.path(), spec);
  EXPECT_EQ(adapter.spec.rank, 4);
  EXPECT_EQ(adapter.spec.alpha, 8);
  EXPECT_EQ(adapter.spec.scale(), 2);
  EXPECT_EQ(adapter.spec.dropout, 0.1);
  EXPECT_EQ(adapter.spec.target_modules, (std::vector<std::string>{"q_proj", "down_proj"}));
  EXPECT_EQ(adapter.base_model, "/models/base");
  const auto groups = decoder_groups(spec, adapter.spec);
  const GroupSources sources = locate_adapter_weights(adapter.tensors, groups);
  for (size_t g = 0; g < groups.size(); ++g) {
    EXPECT_EQ(sources[g].size(), is_adapter_group(groups[g]) ? groups[g].tensors.size() : 0u) << groups[g].name;
  }
}

TEST(AdapterDirectory, WholeAlphaIsWrittenAsAnInteger) {
  EXPECT_TRUE(good_config()["lora_alpha"].is_number_integer());
  AdapterSpec adapter = small_adapter();
  adapter.alpha = 2.5;
  EXPECT_EQ(TestJson::parse(adapter_config_json(adapter, ""))["lora_alpha"], 2.5);
}

struct RefusedAdapter {
  const char* what;
  TestJson patch;
  const char* field;
  const char* message;
};

std::vector<RefusedAdapter> refused_adapters() {
  return {
      {"adalora", {{"peft_type", "ADALORA"}}, "peft_type", "only LoRA"},
      {"classifier", {{"task_type", "SEQ_CLS"}}, "task_type", "causal"},
      {"bias", {{"bias", "lora_only"}}, "bias", "biases"},
      {"lora_bias", {{"lora_bias", true}}, "lora_bias", "lora_B"},
      {"qalora", {{"use_qalora", true}}, "use_qalora", "QA-LoRA"},
      {"bdlora", {{"use_bdlora", {{"nblocks", 2}}}}, "use_bdlora", "BD-LoRA"},
      {"modules_to_save", {{"modules_to_save", {"lm_head"}}}, "modules_to_save", "whole modules"},
      {"trainable_tokens", {{"trainable_token_indices", {1, 2}}}, "trainable_token_indices", "single tokens"},
      {"target_parameters", {{"target_parameters", {"x"}}}, "target_parameters", "bare parameters"},
      {"rank_pattern", {{"rank_pattern", {{"q_proj", 8}}}}, "rank_pattern", "one rank"},
      {"alpha_pattern", {{"alpha_pattern", {{"q_proj", 8}}}}, "alpha_pattern", "one lora_alpha"},
      {"exclude_modules", {{"exclude_modules", {"0"}}}, "exclude_modules", "some layers only"},
      {"layers_to_transform", {{"layers_to_transform", {0}}}, "layers_to_transform", "some layers only"},
      {"layers_to_transform_one", {{"layers_to_transform", 0}}, "layers_to_transform", "some layers only"},
      {"layers_pattern", {{"layers_pattern", "layers"}}, "layers_pattern", "some layers only"},
      {"layer_replication", {{"layer_replication", {{0, 1}}}}, "layer_replication", "repeated"},
      {"fan_in_fan_out", {{"fan_in_fan_out", true}}, "fan_in_fan_out", "transposed"},
      {"alora", {{"alora_invocation_tokens", {1}}}, "alora_invocation_tokens", "activated"},
      {"megatron", {{"megatron_config", {{"a", 1}}}}, "megatron_config", "Megatron"},
      {"arrow", {{"arrow_config", {{"top_k", 1}}}}, "arrow_config", "Arrow"},
      {"kasa", {{"kasa_config", {{"a", 1}}}}, "kasa_config", "KaSA"},
      {"velora", {{"velora_config", {{"a", 1}}}}, "velora_config", "VeLoRA"},
      {"monteclora", {{"monteclora_config", {{"a", 1}}}}, "monteclora_config", "MonteCLoRA"},
      {"loftq", {{"loftq_config", {{"loftq_bits", 4}}}}, "loftq_config", "base weights"},
      {"corda", {{"corda_config", {{"a", 1}}}}, "corda_config", "base weights"},
      {"lora_ga", {{"lora_ga_config", {{"a", 1}}}}, "lora_ga_config", "base weights"},
      {"pissa", {{"init_lora_weights", "pissa"}}, "init_lora_weights", "base weights"},
      {"unknown", {{"new_kind_of_lora", 1}}, "new_kind_of_lora", "is not known here"},
      {"rank_zero", {{"r", 0}}, "r", "must lie between 1"},
      {"rank_absent", {{"r", nullptr}}, "r", "is needed"},
      {"alpha_zero", {{"lora_alpha", 0}}, "lora_alpha", "above zero"},
      {"dropout_one", {{"lora_dropout", 1.0}}, "lora_dropout", "below 1"},
      {"targets_pattern", {{"target_modules", ".*q_proj"}}, "target_modules", "regular expression"},
      {"targets_unknown", {{"target_modules", {"query"}}}, "target_modules", "matches no module"},
      {"targets_null", {{"target_modules", nullptr}}, "target_modules", "is needed"},
  };
}

class RefusedAdapterConfig : public testing::TestWithParam<RefusedAdapter> {};

TEST_P(RefusedAdapterConfig, NamesFileFieldAndReason) {
  const TemporaryFolder folder;
  TestJson config = good_config();
  for (const auto& [key, value] : GetParam().patch.items()) config[key] = value;
  write_adapter(folder, config, good_tensors());
  const DecoderSpec spec = small_spec();
  const std::string message = setup_error_of([&] { read_adapter_directory(folder.path(), spec); });
  expect_contains(message, (folder.path() / kAdapterConfigFile).string() + ": field '" + GetParam().field + "'");
  expect_contains(message, GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(All, RefusedAdapterConfig, testing::ValuesIn(refused_adapters()),
                         [](const auto& info) { return std::string(info.param.what); });

TEST(AdapterDirectory, MissingWeightsAreNamed) {
  const TemporaryFolder folder;
  folder.write(kAdapterConfigFile, good_config().dump());
  const DecoderSpec spec = small_spec();
  expect_contains(setup_error_of([&] { read_adapter_directory(folder.path(), spec); }),
                  "adapter_model.safetensors: no such file");
}

TEST(AdapterDirectory, LinksOutOfItsFolderAreRefused) {
  for (const char* name : {kAdapterConfigFile, kAdapterWeightsFile}) {
    const TemporaryFolder folder, elsewhere;
    write_adapter(folder, good_config(), good_tensors());
    const DecoderSpec spec = small_spec();
    std::filesystem::rename(folder.path() / name, elsewhere.path() / name);
    std::filesystem::create_symlink(elsewhere.path() / name, folder.path() / name);
    expect_contains(setup_error_of([&] { read_adapter_directory(folder.path(), spec); }),
                    std::string(name) + ": a link that leaves its folder");
  }
}

TEST(AdapterDirectory, AnExtraTensorIsRefused) {
  const TemporaryFolder folder;
  auto tensors = good_tensors();
  tensors.push_back({"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", Dtype::f32, {60}});
  write_adapter(folder, good_config(), tensors);
  const DecoderSpec spec = small_spec();
  const AdapterDirectory adapter = read_adapter_directory(folder.path(), spec);
  const auto groups = decoder_groups(spec, adapter.spec);
  expect_contains(setup_error_of([&] { locate_adapter_weights(adapter.tensors, groups); }), "lora_magnitude_vector");
}

TEST(AdapterDirectory, ATensorOfAnotherRankIsRefused) {
  const TemporaryFolder folder;
  TestJson config = good_config();
  config["r"] = 8;
  write_adapter(folder, config, good_tensors());
  const DecoderSpec spec = small_spec();
  const AdapterDirectory adapter = read_adapter_directory(folder.path(), spec);
  const auto groups = decoder_groups(spec, adapter.spec);
  expect_contains(setup_error_of([&] { locate_adapter_weights(adapter.tensors, groups); }), "has shape [4, 48]");
}

}  // namespace
}  // namespace sluice::models
