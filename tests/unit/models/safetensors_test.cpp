#include "models/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/unit/models/test_files.h"

namespace sluice::models {
namespace {

namespace fs = std::filesystem;

// ---- what is planned can be read back ----

TEST(SafetensorsLayout, IsReadBackAsPlanned) {
  const TemporaryFolder folder;
  const std::vector<NewTensor> tensors = {{"b", Dtype::bf16, {3, 32}},
                                          {"scalar", Dtype::f32, {}},
                                          {"a", Dtype::f32, {16}},
                                          {"none", Dtype::f16, {0, 4}},
                                          {"odd \"name\"\n", Dtype::bf16, {7}}};
  const TensorFileLayout layout = plan_tensor_file(tensors, {{"format", "pt"}});
  const fs::path file = folder.write("m.safetensors", planned_safetensors(tensors));
  const TensorIndex index = TensorIndex::of_file(file);
  ASSERT_EQ(index.tensors.size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(layout.tensors[i].name, tensors[i].name);
    const TensorLocation& read = index.at(tensors[i].name, tensors[i].shape);
    EXPECT_EQ(read.offset, layout.tensors[i].offset) << tensors[i].name;
    EXPECT_EQ(read.bytes, layout.tensors[i].bytes);
    EXPECT_EQ(read.dtype, tensors[i].dtype);
  }
  EXPECT_EQ(layout.file_bytes, static_cast<int64_t>(fs::file_size(file)));
}

TEST(SafetensorsLayout, AlignsDataTo4096AndTensorsTo64WithoutHoles) {
  const std::vector<NewTensor> tensors = {{"odd", Dtype::bf16, {5}},
                                          {"wide", Dtype::bf16, {3, 64}},
                                          {"half", Dtype::f32, {8}},
                                          {"wide2", Dtype::f32, {16, 3}}};
  TensorFileLayout layout = plan_tensor_file(tensors, {});
  EXPECT_EQ(layout.header.size() % 4096, 0u);
  EXPECT_EQ(layout.tensors[1].offset % 64, 0);
  EXPECT_EQ(layout.tensors[3].offset % 64, 0);
  EXPECT_EQ(layout.tensors[2].offset % 32, 0);
  std::sort(layout.tensors.begin(), layout.tensors.end(), [](auto& a, auto& b) { return a.offset < b.offset; });
  int64_t end = static_cast<int64_t>(layout.header.size());
  for (const TensorLocation& tensor : layout.tensors) {
    EXPECT_EQ(tensor.offset, end) << tensor.name;
    end += tensor.bytes;
  }
  EXPECT_EQ(layout.file_bytes, end);
}

TEST(SafetensorsLayout, KeepsTheAskedOrderWhenAllSizesAreMultiplesOf64) {
  const TensorFileLayout layout =
      plan_tensor_file({{"z", Dtype::bf16, {32}}, {"a", Dtype::bf16, {320}}, {"m", Dtype::bf16, {64}}}, {});
  EXPECT_LT(layout.tensors[0].offset, layout.tensors[1].offset);
  EXPECT_LT(layout.tensors[1].offset, layout.tensors[2].offset);
}

TEST(SafetensorsLayoutDeath, NameTwice) {
  EXPECT_DEATH(plan_tensor_file({{"a", Dtype::f32, {1}}, {"a", Dtype::f32, {1}}}, {}), "tensor name twice");
}

// ---- damaged files ----

struct DamagedFile {
  const char* what;
  std::string bytes;
  const char* message;
};

std::string one_tensor(const std::string& dtype, const std::string& shape, const std::string& offsets, size_t data) {
  return raw_safetensors("{\"w\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}",
                         data);
}

std::string two_tensors(const std::string& offsets_a, const std::string& offsets_b, size_t data) {
  return raw_safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" + offsets_a +
                             "},\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" + offsets_b + "}}",
                         data);
}

std::vector<DamagedFile> damaged_files() {
  return {
      {"empty", "", "truncated: 0 bytes long"},
      {"seven_bytes", "1234567", "truncated: 7 bytes long"},
      {"length_overflow", length_prefix(UINT64_MAX) + "{}", "header of 18446744073709551615 bytes"},
      {"length_just_over_limit", length_prefix(100'000'001) + "{}", "header of 100000001 bytes"},
      {"length_past_end", length_prefix(1000) + "{}", "the header ends at offset 1008, the file at 10"},
      {"no_header", length_prefix(0), "does not start with '{'"},
      {"not_json_object", raw_safetensors("[1]", 0), "does not start with '{'"},
      {"broken_json", raw_safetensors("{\"w\":", 0), "not valid JSON"},
      {"not_utf8", raw_safetensors("{\"\xff\":1}", 0), "not valid JSON"},
      {"entry_not_object", raw_safetensors("{\"w\":3}", 0), "no 'dtype'"},
      {"no_shape", raw_safetensors("{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4), "no 'shape'"},
      {"no_offsets", raw_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4), "no 'data_offsets'"},
      {"unknown_dtype", one_tensor("\"F31\"", "[1]", "[0,4]", 4), "unknown dtype \"F31\""},
      {"dtype_not_text", one_tensor("7", "[1]", "[0,4]", 4), "unknown dtype 7"},
      {"shape_not_list", one_tensor("\"F32\"", "1", "[0,4]", 4), "shape is 1"},
      {"negative_dimension", one_tensor("\"F32\"", "[-1]", "[0,4]", 4), "shape holds -1"},
      {"fractional_dimension", one_tensor("\"F32\"", "[1.0]", "[0,4]", 4), "shape holds 1.0"},
      {"dimension_overflow", one_tensor("\"F32\"", "[9223372036854775808]", "[0,4]", 4), "shape holds 92233"},
      {"product_overflow", one_tensor("\"F32\"", "[4294967296,4294967296]", "[0,4]", 4), "fit in 64 bits"},
      {"product_wraps_to_fit", one_tensor("\"F32\"", "[4611686018427387905]", "[0,4]", 4), "fit in 64 bits"},
      {"half_a_byte", one_tensor("\"F4\"", "[3]", "[0,2]", 2), "ends inside a byte"},
      {"offsets_not_pair", one_tensor("\"F32\"", "[1]", "[0,4,8]", 4), "expected [begin, end]"},
      {"offsets_negative", one_tensor("\"F32\"", "[1]", "[-4,0]", 4), "data_offsets holds -4"},
      {"offsets_reversed", one_tensor("\"F32\"", "[1]", "[4,0]", 4), "end before they begin"},
      {"data_truncated", one_tensor("\"F32\"", "[2]", "[0,8]", 7), "end past the data, which is 7 bytes long"},
      {"bytes_differ_from_shape", one_tensor("\"F32\"", "[2]", "[0,4]", 4), "hold 4 bytes, but F32 [2] takes 8"},
      {"overlap", two_tensors("[0,8]", "[4,12]", 12), "they overlap"},
      {"same_range", two_tensors("[0,8]", "[0,8]", 8), "they overlap"},
      {"hole", two_tensors("[0,8]", "[12,20]", 20), "a hole between them"},
      {"hole_at_start", two_tensors("[4,12]", "[12,20]", 20), "a hole between them"},
      {"bytes_at_end", two_tensors("[0,8]", "[8,16]", 17), "1 bytes after the last tensor"},
      {"metadata_not_map", raw_safetensors("{\"__metadata__\":[]}", 0), "__metadata__"},
      {"metadata_not_text", raw_safetensors("{\"__metadata__\":{\"a\":1}}", 0), "__metadata__"},
      // What shows a value calls itself once a level.
      {"nested_without_end", raw_safetensors("{\"w\":" + std::string(1'000'000, '[') + "}", 0), "levels deep"},
      {"nested_dtype", one_tensor(std::string(65, '[') + std::string(65, ']'), "[1]", "[0,4]", 4), "levels deep"},
      {"tensor_twice",
       raw_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
                       "\"w\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
                       0),
       "the key \"w\" stands twice"},
      {"field_twice",
       raw_safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[0],\"data_offsets\":[0,0]}}", 0),
       "the key \"shape\" stands twice"},
  };
}

class DamagedSafetensors : public testing::TestWithParam<DamagedFile> {};

TEST_P(DamagedSafetensors, IsRefusedWithFileAndReason) {
  const TemporaryFolder folder;
  const fs::path file = folder.write("model.safetensors", GetParam().bytes);
  const std::string message = setup_error_of([&] { TensorIndex::of_directory(folder.path()); });
  expect_contains(message, file.string());
  expect_contains(message, GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(All, DamagedSafetensors, testing::ValuesIn(damaged_files()),
                         [](const auto& info) { return std::string(info.param.what); });

TEST(Safetensors, RandomDamageIsReadConsistentlyOrRefused) {
  const TemporaryFolder folder;
  const std::string good = planned_safetensors({{"layer.w", Dtype::bf16, {4, 8}}, {"layer.b", Dtype::f32, {3}}});
  const size_t header_end = good.find('}', good.find("data_offsets\":[0") + 1) + 60;
  const uint32_t seed = std::random_device{}();
  RecordProperty("seed", std::to_string(seed));
  std::mt19937 random(seed);
  int refused = 0;
  for (int round = 0; round < 500; ++round) {
    std::string bytes = good;
    const int changes = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < changes; ++i) bytes[random() % header_end] = static_cast<char>(random());
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    const fs::path file = folder.write("f.safetensors", bytes);
    try {
      for (const auto& [name, tensor] : TensorIndex::of_file(file).tensors) {
        ASSERT_GE(tensor.offset, 8) << "seed " << seed;
        ASSERT_LE(tensor.offset + tensor.bytes, static_cast<int64_t>(bytes.size())) << "seed " << seed;
      }
    } catch (const SetupError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 250) << "seed " << seed;
}

// ---- one tensor asked for ----

TEST(TensorIndexAt, NamesTheNearestTensorWhenAbsent) {
  const TemporaryFolder folder;
  const fs::path file =
      folder.write("m.safetensors",
                   planned_safetensors({{"model.norm.weight", Dtype::f32, {4}}, {"lm_head.weight", Dtype::f32, {4}}}));
  const TensorIndex index = TensorIndex::of_file(file);
  const std::string message = setup_error_of([&] { index.at("model.nrom.weight", {4}); });
  expect_contains(message, "'model.nrom.weight' is not there");
  expect_contains(message, "nearest tensor here is 'model.norm.weight'");
}

TEST(TensorIndexAt, RefusesAnotherShape) {
  const TemporaryFolder folder;
  const fs::path file = folder.write("m.safetensors", planned_safetensors({{"w", Dtype::f32, {2, 3}}}));
  const TensorIndex index = TensorIndex::of_file(file);
  const std::string message = setup_error_of([&] { index.at("w", {3, 2}); });
  expect_contains(message, "shape [2, 3], but the model's config asks for [3, 2]");
  expect_contains(message, file.string());
}

TEST(TensorIndexAt, RefusesATypeThatIsNotReadOnlyWhenTheTensorIsWanted) {
  const TemporaryFolder folder;
  const fs::path file = folder.write("m.safetensors", one_tensor("\"F8_E4M3\"", "[4]", "[0,4]", 4));
  const TensorIndex index = TensorIndex::of_file(file);
  expect_contains(setup_error_of([&] { index.at("w", {4}); }), "stored as F8_E4M3");
}

// ---- directories ----

void write_shards(const TemporaryFolder& folder, const std::string& weight_map) {
  folder.write("m/one.safetensors", planned_safetensors({{"a", Dtype::f32, {2}}, {"b", Dtype::f32, {3}}}));
  folder.write("m/two.safetensors", planned_safetensors({{"c", Dtype::bf16, {4}}}));
  folder.write("outside.safetensors", planned_safetensors({{"c", Dtype::bf16, {4}}}));
  folder.write("m/model.safetensors.index.json", R"({"metadata":{"total_size":28},"weight_map":)" + weight_map + "}");
}

std::string refused_directory(const TemporaryFolder& folder) {
  return setup_error_of([&] { TensorIndex::of_directory(folder.path() / "m"); });
}

TEST(ShardedDirectory, FindsEachTensorInItsShard) {
  const TemporaryFolder folder;
  write_shards(folder, R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})");
  const TensorIndex index = TensorIndex::of_directory(folder.path() / "m");
  ASSERT_EQ(index.files.size(), 2u);
  EXPECT_EQ(index.files[static_cast<size_t>(index.at("b", {3}).file)].filename(), "one.safetensors");
  EXPECT_EQ(index.files[static_cast<size_t>(index.at("c", {4}).file)].filename(), "two.safetensors");
}

TEST(ShardedDirectory, RefusesAShardAboveTheFolder) {
  const TemporaryFolder folder;
  write_shards(folder, R"({"c":"../outside.safetensors"})");
  expect_contains(refused_directory(folder), "outside the model's folder");
}

TEST(ShardedDirectory, RefusesAnAbsoluteShard) {
  const TemporaryFolder folder;
  write_shards(folder, R"({"c":")" + (folder.path() / "m/two.safetensors").string() + R"("})");
  expect_contains(refused_directory(folder), "outside the model's folder");
}

TEST(ShardedDirectory, RefusesALinkThatLeavesTheFolder) {
  const TemporaryFolder folder;
  write_shards(folder, R"({"c":"link.safetensors"})");
  fs::create_symlink("../outside.safetensors", folder.path() / "m/link.safetensors");
  expect_contains(refused_directory(folder), "a link that leaves the model's folder");
}

TEST(ShardedDirectory, RefusesALinkedSubfolderThatLeavesTheFolder) {
  const TemporaryFolder folder;
  write_shards(folder, R"({"c":"sub/outside.safetensors"})");
  fs::create_directory_symlink("..", folder.path() / "m/sub");
  expect_contains(refused_directory(folder), "a link that leaves the model's folder");
}

TEST(ShardedDirectory, FollowsALinkInsideTheFolder) {
  const TemporaryFolder folder;
  write_shards(folder, R"({"c":"link.safetensors"})");
  fs::create_symlink("two.safetensors", folder.path() / "m/link.safetensors");
  EXPECT_EQ(TensorIndex::of_directory(folder.path() / "m").tensors.count("c"), 1u);
}

TEST(ShardedDirectory, FollowsTheLinksOfTheHubCache) {
  const TemporaryFolder folder;
  folder.write("models--x/blobs/abc", planned_safetensors({{"c", Dtype::bf16, {4}}}));
  const std::string snapshot = "models--x/snapshots/rev";
  folder.write(snapshot + "/model.safetensors.index.json", R"({"weight_map":{"c":"s.safetensors"}})");
  fs::create_symlink("../../blobs/abc", folder.path() / snapshot / "s.safetensors");
  EXPECT_EQ(TensorIndex::of_directory(folder.path() / snapshot).tensors.count("c"), 1u);
}

TEST(ShardedDirectory, RefusesAMissingShard) {
  const TemporaryFolder folder;
  write_shards(folder, R"({"c":"three.safetensors"})");
  expect_contains(refused_directory(folder), "three.safetensors is not there");
}

TEST(ShardedDirectory, RefusesATensorThatItsShardDoesNotHold) {
  const TemporaryFolder folder;
  write_shards(folder, R"({"a":"one.safetensors","b":"two.safetensors"})");
  expect_contains(refused_directory(folder), "tensor 'b' is in 'two.safetensors', but that file does not hold it");
}

TEST(ShardedDirectory, RefusesAnIndexWithoutWeightMap) {
  const TemporaryFolder folder;
  write_shards(folder, "{}");
  expect_contains(refused_directory(folder), "no 'weight_map'");
}

TEST(ShardedDirectory, RefusesATensorNamedTwice) {
  const TemporaryFolder folder;
  write_shards(folder, R"({"a":"one.safetensors","a":"two.safetensors"})");
  expect_contains(refused_directory(folder), "the key \"a\" stands twice");
}

TEST(ModelDirectory, RefusesALinkThatLeavesTheFolder) {
  const TemporaryFolder folder;
  folder.write("outside.safetensors", planned_safetensors({{"secret", Dtype::f32, {1}}}));
  fs::create_directory(folder.path() / "m");
  fs::create_symlink("../outside.safetensors", folder.path() / "m/model.safetensors");
  expect_contains(setup_error_of([&] { TensorIndex::of_directory(folder.path() / "m"); }), "leaves its folder");
}

TEST(ModelDirectory, SaysWhatToDoWithPickledWeights) {
  const TemporaryFolder folder;
  folder.write("m/pytorch_model.bin", "x");
  expect_contains(refused_directory(folder), "convert pytorch_model.bin");
}

TEST(ModelDirectory, IsRefusedWhenAbsent) {
  const TemporaryFolder folder;
  expect_contains(refused_directory(folder), "no such directory");
}

}  // namespace
}  // namespace sluice::models
