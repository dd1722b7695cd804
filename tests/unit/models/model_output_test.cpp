#include "models/model_output.h"

#include <gtest/gtest.h>

#include <set>

#include "models/adapter_files.h"
#include "models/decoder_groups.h"
#include "tests/unit/models/test_files.h"

namespace sluice::models {
namespace {

using TestJson = nlohmann::ordered_json;

struct Base {
  Base() : spec(read_decoder_spec(folder.write("config.json", config_of("llama").dump()))) {
    folder.write("tokenizer.json", "{}");
    folder.write("generation_config.json", "{}");
    folder.write("additional_chat_templates/rag.jinja", "x");
    folder.write("README.md", "not copied");
  }
  TemporaryFolder folder;
  DecoderSpec spec;
};

std::string text_of(const ModelOutput& output, const std::string& name) {
  for (const PlannedTextFile& file : output.text_files) {
    if (file.name == name) return file.text;
  }
  ADD_FAILURE() << name << " is not planned";
  return "{}";
}

std::set<std::string> copy_names(const ModelOutput& output) {
  std::set<std::string> names;
  for (const PlannedCopy& copy : output.copies) names.insert(copy.name);
  return names;
}

TEST(ModelOutput, OneFileBelowTheLimit) {
  const Base base;
  const auto groups = decoder_groups(base.spec, {});
  const ModelOutput output = plan_model_output(base.folder.path(), groups, Dtype::bf16);
  ASSERT_EQ(output.tensor_files.size(), 1u);
  EXPECT_EQ(output.tensor_files[0].name, "model.safetensors");
  for (const ParameterGroup& group : groups) {
    for (const ParameterTensor& tensor : group.tensors) {
      EXPECT_EQ(output.at(tensor.name).bytes, 2 * tensor.elements);
      EXPECT_EQ(output.at(tensor.name).shape, tensor.shape);
    }
  }
}

TEST(ModelOutput, ShardsAndIndexAboveTheLimit) {
  const Base base;
  const auto groups = decoder_groups(base.spec, {});
  constexpr int64_t kLimit = 60'000;
  const ModelOutput output = plan_model_output(base.folder.path(), groups, Dtype::f32, kLimit);
  const size_t count = output.tensor_files.size();
  ASSERT_GT(count, 2u);
  ASSERT_LT(count, 10u);
  EXPECT_EQ(output.tensor_files[1].name, "model-00002-of-0000" + std::to_string(count) + ".safetensors");
  const TestJson index = TestJson::parse(text_of(output, "model.safetensors.index.json"));
  int64_t bytes = 0;
  for (const PlannedTensorFile& file : output.tensor_files) {
    int64_t shard_bytes = 0;
    for (const TensorLocation& tensor : file.layout.tensors) {
      shard_bytes += tensor.bytes;
      EXPECT_EQ(index["weight_map"][tensor.name], file.name);
      EXPECT_EQ(output.tensor_files[static_cast<size_t>(output.at(tensor.name).file)].name, file.name);
    }
    EXPECT_TRUE(shard_bytes <= kLimit || file.layout.tensors.size() == 1) << file.name;
    bytes += shard_bytes;
  }
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  EXPECT_EQ(index["metadata"]["total_parameters"], bytes / 4);
}

TEST(ModelOutput, ConfigIsTheBasesWithTheWrittenDtype) {
  const Base base;
  const auto groups = decoder_groups(base.spec, {});
  TestJson expected = config_of("llama");
  expected["dtype"] = "bfloat16";
  const ModelOutput output = plan_model_output(base.folder.path(), groups, Dtype::bf16);
  EXPECT_EQ(TestJson::parse(text_of(output, "config.json")), expected);

  TestJson older = config_of("llama");
  older.erase("dtype");
  older["torch_dtype"] = "float32";
  base.folder.write("config.json", older.dump());
  const ModelOutput again = plan_model_output(base.folder.path(), groups, Dtype::f16);
  older["torch_dtype"] = "float16";
  EXPECT_EQ(TestJson::parse(text_of(again, "config.json")), older);
}

TEST(ModelOutput, CopiesTokenizerAndGenerationFilesOnly) {
  const Base base;
  const ModelOutput output = plan_model_output(base.folder.path(), decoder_groups(base.spec, {}), Dtype::f32);
  EXPECT_EQ(copy_names(output),
            (std::set<std::string>{"tokenizer.json", "generation_config.json", "additional_chat_templates/rag.jinja"}));
}

TEST(ModelOutput, PublishesNoFileFromOutsideTheBasesFolder) {
  const Base base;
  const TemporaryFolder elsewhere;
  namespace fs = std::filesystem;
  const fs::path secret = elsewhere.write("secret", "key");
  fs::create_symlink("tokenizer.json", base.folder.path() / "vocab.json");
  EXPECT_EQ(copies_of(base.folder.path()).size(), 4u) << "a link inside the folder is a file of it";
  for (const char* name : {"merges.txt", "additional_chat_templates/more.jinja"}) {
    fs::create_symlink(secret, base.folder.path() / name);
    const std::string message = setup_error_of([&] { copies_of(base.folder.path()); });
    expect_contains(message, std::string(name) + ": a link that leaves its folder (to " + secret.string() + ")");
    fs::remove(base.folder.path() / name);
  }
}

TEST(ModelOutput, FileBytesIsTheSumOfAllFiles) {
  const Base base;
  const ModelOutput output = plan_model_output(base.folder.path(), decoder_groups(base.spec, {}), Dtype::f32);
  int64_t bytes = 2 + 2 + 1;  // the copies
  for (const PlannedTextFile& file : output.text_files) bytes += static_cast<int64_t>(file.text.size());
  bytes += output.tensor_files[0].layout.file_bytes;
  EXPECT_EQ(output.file_bytes(), bytes);
}

TEST(AdapterOutput, HoldsTheAdaptersTensorsOnly) {
  const Base base;
  const AdapterSpec adapter = {4, 8, 0, {"q_proj"}};
  const auto groups = decoder_groups(base.spec, adapter);
  const ModelOutput output = plan_adapter_output(base.folder.path(), groups, adapter);
  ASSERT_EQ(output.tensor_files.size(), 1u);
  EXPECT_EQ(output.tensor_files[0].name, "adapter_model.safetensors");
  EXPECT_EQ(output.locations.size(), 6u);
  EXPECT_EQ(output.at("base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight").dtype, Dtype::f32);
  const TestJson config = TestJson::parse(text_of(output, "adapter_config.json"));
  EXPECT_EQ(config["base_model_name_or_path"], base.folder.path().string());
  EXPECT_EQ(copy_names(output).count("tokenizer.json"), 1u);
  EXPECT_EQ(copy_names(output).count("generation_config.json"), 0u);
}

}  // namespace
}  // namespace sluice::models
