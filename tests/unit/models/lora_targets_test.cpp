#include <gtest/gtest.h>

#include "models/decoder.h"
#include "tests/unit/models/test_files.h"

namespace sluice::models {
namespace {

DecoderSpec llama() {
  DecoderSpec spec;
  spec.family = "llama";
  return spec;
}

const std::vector<std::string> kAll = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

TEST(LoraTargets, AreOrderedAsTheLayerAndUnique) {
  EXPECT_EQ(resolve_lora_targets(llama(), {"down_proj", "q_proj", "self_attn.q_proj"}, false),
            (std::vector<std::string>{"q_proj", "down_proj"}));
}

TEST(LoraTargets, LinearMeansAllProjections) {
  EXPECT_EQ(resolve_lora_targets(llama(), {}, true), kAll);
  EXPECT_EQ(resolve_lora_targets(llama(), {"all-linear"}, false), kAll);
}

TEST(LoraTargets, AnEntryThatMatchesNothingListsWhatExists) {
  const std::string message = setup_error_of([] { resolve_lora_targets(llama(), {"q_proj", "query"}, false); });
  expect_contains(message, "'query' matches no module of this llama model");
  for (const std::string& target : kAll) expect_contains(message, target);
}

TEST(LoraTargets, AnUnknownEntryIsRefusedEvenBesideLinear) {
  expect_contains(setup_error_of([] { resolve_lora_targets(llama(), {"query"}, true); }), "'query'");
}

TEST(LoraTargets, EmbeddingsAndHeadAreNotSupported) {
  for (const char* name : {"embed_tokens", "lm_head"}) {
    expect_contains(setup_error_of([&] { resolve_lora_targets(llama(), {name}, false); }), "not inside the layers");
  }
}

TEST(LoraTargets, SingleLayersAreNotSupported) {
  expect_contains(setup_error_of([] { resolve_lora_targets(llama(), {"model.layers.0.self_attn.q_proj"}, false); }),
                  "some layers only");
}

TEST(LoraTargets, NoTargetAtAllIsRefused) {
  expect_contains(setup_error_of([] { resolve_lora_targets(llama(), {}, false); }), "lora_target_linear");
}

}  // namespace
}  // namespace sluice::models
