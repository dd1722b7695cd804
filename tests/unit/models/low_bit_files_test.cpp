// Descriptions of low bits, JSON texts in tensors of the checkpoint's files: what is not as bitsandbytes writes it is
// refused with the tensor's name, whatever type its fields have.
#include "models/low_bit_files.h"

#include <gtest/gtest.h>

#include "tests/unit/models/test_files.h"

namespace sluice::models {
namespace {

constexpr const char* kState = "w.quant_state.bitsandbytes__nf4";
const std::string kGood = R"({"quant_type":"nf4","blocksize":64,"nested_blocksize":256,"nested_offset":0.5})";

std::string checkpoint_with(const std::string& description) {
  const TensorFileLayout layout = plan_tensor_file(
      {{"w", Dtype::u8, {32, 1}}, {kState, Dtype::u8, {static_cast<int64_t>(description.size())}}}, {});
  std::string bytes = layout.header + std::string(static_cast<size_t>(layout.file_bytes) - layout.header.size(), 'x');
  return bytes.replace(static_cast<size_t>(layout.tensors[1].offset), description.size(), description);
}

LowBitCheckpoint described(const TemporaryFolder& folder, const std::string& description) {
  TensorIndex index = TensorIndex::of_file(folder.write("model.safetensors", checkpoint_with(description)));
  return take_low_bit_descriptions(index);
}

TEST(LowBitDescription, IsRead) {
  const TemporaryFolder folder;
  const LowBitCheckpoint checkpoint = described(folder, kGood);
  EXPECT_EQ(checkpoint.formats.at("w").kind, LowBit::nf4);
  EXPECT_TRUE(checkpoint.formats.at("w").double_quant);
  EXPECT_EQ(checkpoint.nested_offsets.at("w"), 0.5f);
}

TEST(LowBitDescription, IsRefusedWhenAFieldIsAbsentOrOfAnotherType) {
  struct Change {
    std::string from, to, message;
  };
  for (const Change& change : {Change{"\"nf4\"", "4", "has quant_type 4"},
                               {"quant_type", "quant_kind", "has quant_type null"},
                               {":64", ":\"64\"", "has a blocksize other than 64"},
                               {"\"blocksize", "\"sizeofblock", "has a blocksize other than 64"},
                               {":256", ":[256]", "has a nested_blocksize other than 256"},
                               {"0.5", "\"0.5\"", "or no nested_offset"},
                               {"0.5", "1e300", "or no nested_offset"},
                               {"0.5", std::string(65, '[') + std::string(65, ']'), "levels deep"},
                               {"0.5}", "0.5", "not valid JSON"}}) {
    const TemporaryFolder folder;
    std::string description = kGood;
    description.replace(description.find(change.from), change.from.size(), change.to);
    const std::string message = setup_error_of([&] { described(folder, description); });
    expect_contains(message, std::string("tensor '") + kState + "'");
    expect_contains(message, change.message);
  }
}

}  // namespace
}  // namespace sluice::models
