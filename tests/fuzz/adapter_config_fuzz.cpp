// adapter_config.json of a peft directory. One that is accepted says the same when we have written it.
#include "models/adapter_files.h"
#include "tests/fuzz/fuzz_folder.h"

namespace sluice::fuzz {
namespace {

constexpr const char* kModel = R"({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "vocab_size": 32,
  "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_act": "silu",
  "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false})";

class AdapterFolder : public FuzzFolder {
 public:
  AdapterFolder() {
    write("config.json", kModel);
    const models::TensorFileLayout layout = models::plan_tensor_file({{"w", Dtype::f32, {2}}}, {});
    write(models::kAdapterWeightsFile,
          layout.header + std::string(static_cast<size_t>(layout.file_bytes) - layout.header.size(), 'x'));
    spec = models::read_decoder_spec("config.json");
  }
  models::DecoderSpec spec;
};

}  // namespace
}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  static const fuzz::AdapterFolder folder;
  fuzz::AdapterFolder::write(models::kAdapterConfigFile, fuzz::text_of(data, bytes));
  fuzz::accepts([] { models::base_model_of_adapter("."); });
  models::AdapterDirectory read;
  if (!fuzz::accepts([&] { read = models::read_adapter_directory(".", folder.spec); })) return 0;
  fuzz::AdapterFolder::write(models::kAdapterConfigFile, models::adapter_config_json(read.spec, read.base_model));
  const models::AdapterSpec again = models::read_adapter_directory(".", folder.spec).spec;
  SLUICE_CHECK(again.rank == read.spec.rank && again.alpha == read.spec.alpha && again.dropout == read.spec.dropout &&
                   again.target_modules == read.spec.target_modules && again.decomposed == read.spec.decomposed &&
                   again.rank_stabilised == read.spec.rank_stabilised,
               "an adapter that reads otherwise once written");
  return 0;
}
