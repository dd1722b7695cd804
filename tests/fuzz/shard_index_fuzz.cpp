// model.safetensors.index.json beside two shards, in a folder with a link out of it.
#include <algorithm>
#include <filesystem>

#include "models/safetensors.h"
#include "tests/fuzz/fuzz_folder.h"

namespace sluice::fuzz {
namespace {

namespace fs = std::filesystem;

std::string file_with(const std::string& tensor) {
  const models::TensorFileLayout layout = models::plan_tensor_file({{tensor, Dtype::f32, {2}}}, {});
  return layout.header + std::string(static_cast<size_t>(layout.file_bytes) - layout.header.size(), 'x');
}

class ModelFolder : public FuzzFolder {
 public:
  ModelFolder() {
    write("outside.safetensors", file_with("secret"));
    write("model/one.safetensors", file_with("a"));
    write("model/sub/two.safetensors", file_with("b"));
    fs::create_symlink("../outside.safetensors", "model/link.safetensors");
    fs::create_directory_symlink("..", "model/up");
  }
};

}  // namespace
}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  static const fuzz::ModelFolder folder;
  static const std::filesystem::path inside = std::filesystem::canonical("model");
  fuzz::ModelFolder::write("model/model.safetensors.index.json", fuzz::text_of(data, bytes));
  fuzz::accepts([&] {
    const models::TensorIndex index = models::TensorIndex::of_directory("model");
    for (const std::filesystem::path& file : index.files) {
      const std::filesystem::path real = std::filesystem::canonical(file);
      SLUICE_CHECK(std::mismatch(inside.begin(), inside.end(), real.begin(), real.end()).first == inside.end(),
                   "a shard outside the folder: " + real.string());
    }
    SLUICE_CHECK(!index.tensors.contains("secret"), "a tensor from outside the folder");
  });
  return 0;
}
