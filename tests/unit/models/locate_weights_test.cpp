#include "models/locate_weights.h"

#include <gtest/gtest.h>

#include "models/decoder_groups.h"
#include "tests/unit/models/test_files.h"

namespace sluice::models {
namespace {

struct SmallModel {
  explicit SmallModel(bool tied) {
    nlohmann::ordered_json config = config_of("llama");
    config["tie_word_embeddings"] = tied;
    spec = read_decoder_spec(folder.write("config.json", config.dump()));
    groups = decoder_groups(spec, {});
    for (const ParameterGroup& group : groups) {
      for (const ParameterTensor& tensor : group.tensors) tensors.push_back({tensor.name, Dtype::bf16, tensor.shape});
    }
  }
  GroupSources locate() {
    folder.write("model.safetensors", planned_safetensors(tensors));
    return locate_base_weights(TensorIndex::of_directory(folder.path()), spec, groups);
  }
  NewTensor& named(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const NewTensor& tensor) { return tensor.name == name; });
  }
  void remove(const std::string& name) {
    std::erase_if(tensors, [&](const NewTensor& tensor) { return tensor.name == name; });
  }

  TemporaryFolder folder;
  DecoderSpec spec;
  std::vector<ParameterGroup> groups;
  std::vector<NewTensor> tensors;
};

TEST(LocateBaseWeights, FindsEveryTensorOfEveryGroup) {
  SmallModel model(false);
  const GroupSources sources = model.locate();
  ASSERT_EQ(sources.size(), model.groups.size());
  for (size_t g = 0; g < sources.size(); ++g) {
    ASSERT_EQ(sources[g].size(), model.groups[g].tensors.size());
    for (size_t i = 0; i < sources[g].size(); ++i) {
      EXPECT_EQ(sources[g][i].name, model.groups[g].tensors[i].name);
      EXPECT_EQ(sources[g][i].bytes, 2 * model.groups[g].tensors[i].elements);
    }
  }
}

TEST(LocateBaseWeights, LeavesOldRotaryTablesAside) {
  SmallModel model(false);
  model.tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", Dtype::f32, {5}});
  EXPECT_EQ(model.locate().size(), model.groups.size());
}

TEST(LocateBaseWeights, RefusesATensorThatTheModelDoesNotHave) {
  SmallModel model(false);
  model.tensors.push_back({"model.layers.0.self_attn.q_proj.bias", Dtype::bf16, {60}});
  expect_contains(setup_error_of([&] { model.locate(); }), "'model.layers.0.self_attn.q_proj.bias'");
}

TEST(LocateBaseWeights, RefusesAMissingTensor) {
  SmallModel model(false);
  model.remove("model.layers.1.mlp.up_proj.weight");
  expect_contains(setup_error_of([&] { model.locate(); }), "'model.layers.1.mlp.up_proj.weight' is not there");
}

TEST(LocateBaseWeights, RefusesIntegers) {
  SmallModel model(false);
  model.named("model.norm.weight").dtype = Dtype::i32;
  expect_contains(setup_error_of([&] { model.locate(); }), "'model.norm.weight' at offset");
}

TEST(LocateBaseWeights, SaysHowToTieWhenTheHeadIsNotStored) {
  SmallModel model(false);
  model.remove("lm_head.weight");
  expect_contains(setup_error_of([&] { model.locate(); }), "set tie_word_embeddings to true");
}

TEST(LocateBaseWeights, LeavesARepeatedTiedHeadAside) {
  SmallModel model(true);
  model.tensors.push_back({"lm_head.weight", Dtype::bf16, {50, 48}});
  const GroupSources sources = model.locate();
  EXPECT_EQ(sources[0][0].name, "model.embed_tokens.weight");
}

TEST(LocateBaseWeights, RefusesATiedHeadThatDiffers) {
  SmallModel model(true);
  model.tensors.push_back({"lm_head.weight", Dtype::bf16, {50, 48}});
  const auto file = model.folder.write("model.safetensors", planned_safetensors(model.tensors));
  const TensorLocation head = TensorIndex::of_file(file).tensors.at("lm_head.weight");
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(head.offset + head.bytes - 1);
  stream.put('y');
  stream.close();
  const std::string message = setup_error_of(
      [&] { locate_base_weights(TensorIndex::of_directory(model.folder.path()), model.spec, model.groups); });
  expect_contains(message, "'lm_head.weight' differs from 'model.embed_tokens.weight'");
  expect_contains(message, "set tie_word_embeddings to false");
}

TEST(LocateBaseWeights, TakesTheHeadForATiedEmbeddingThatIsNotStored) {
  SmallModel model(true);
  model.named("model.embed_tokens.weight").name = "lm_head.weight";
  EXPECT_EQ(model.locate()[0][0].name, "lm_head.weight");
}

}  // namespace
}  // namespace sluice::models
