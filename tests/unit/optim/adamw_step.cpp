// adamw_step FOLDER RULE WEIGHTS GRADIENTS MOMENTS LR BETA1 BETA2 EPS DECAY STEP SCALE SEED: one update by the
// instruction set that a training run would choose. FOLDER holds the arrays as raw files, `weights`, `gradients`, `m`,
// `v` and, where the types want them, `master`, `m_scales` and `v_scales`; all but `gradients` are updated in place.
// RULE is adamw or lion; WEIGHTS and GRADIENTS are f32, bf16 or f16, MOMENTS fp32, bf16 or 8bit.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "optim/adamw.h"

namespace {

using sluice::Dtype;

class Folder {
 public:
  explicit Folder(std::filesystem::path path) : path_(std::move(path)) {}
  // Null where there is no such file.
  template <class T = std::byte>
  T* data(const std::string& name) {
    if (!std::filesystem::exists(path_ / name)) return nullptr;
    std::vector<std::byte>& bytes = files_[name];
    bytes.resize(std::filesystem::file_size(path_ / name));
    std::ifstream(path_ / name, std::ios::binary).read(reinterpret_cast<char*>(bytes.data()), size(bytes));
    return reinterpret_cast<T*>(bytes.data());
  }
  int64_t bytes(const std::string& name) const { return static_cast<int64_t>(files_.at(name).size()); }
  bool save() const {
    bool good = true;
    for (const auto& [name, bytes] : files_) {
      std::ofstream file(path_ / name, std::ios::binary);
      file.write(reinterpret_cast<const char*>(bytes.data()), size(bytes));
      good &= static_cast<bool>(file.flush());
    }
    return good;
  }

 private:
  static std::streamsize size(const std::vector<std::byte>& bytes) {
    return static_cast<std::streamsize>(bytes.size());
  }

  std::filesystem::path path_;
  std::map<std::string, std::vector<std::byte>> files_;
};

Dtype dtype_of(const std::string& name) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16})
    if (sluice::name_of(dtype) == name) return dtype;
  std::fprintf(stderr, "adamw_step: no type of weights or gradients: %s\n", name.c_str());
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 14) {
    std::fprintf(stderr,
                 "usage: adamw_step FOLDER RULE WEIGHTS GRADIENTS MOMENTS LR BETA1 BETA2 EPS DECAY STEP SCALE SEED\n");
    return 2;
  }
  Folder folder(argv[1]);
  const sluice::optim::AdamWSettings settings{.learning_rate = std::atof(argv[6]),
                                              .beta1 = std::atof(argv[7]),
                                              .beta2 = std::atof(argv[8]),
                                              .epsilon = std::atof(argv[9]),
                                              .weight_decay = std::atof(argv[10]),
                                              .step = std::atoll(argv[11]),
                                              .gradient_scale = static_cast<float>(std::atof(argv[12])),
                                              .seed = std::strtoull(argv[13], nullptr, 10)};
  const std::string rule = argv[2];
  sluice::optim::AdamWArrays arrays{.rule = rule == "lion" ? sluice::UpdateRule::lion : sluice::UpdateRule::adamw,
                                    .weight_dtype = dtype_of(argv[3]),
                                    .weights = folder.data("weights"),
                                    .master = folder.data("master"),
                                    .gradient_dtype = dtype_of(argv[4]),
                                    .gradients = folder.data("gradients"),
                                    .moments = sluice::moment_format(argv[5]).value(),
                                    .m = folder.data("m"),
                                    .v = folder.data("v"),
                                    .m_scales = folder.data<float>("m_scales"),
                                    .v_scales = folder.data<float>("v_scales")};
  arrays.count = folder.bytes("weights") / sluice::size_of(arrays.weight_dtype);
  sluice::optim::update(sluice::optim::best_isa(), settings, arrays);
  return folder.save() ? 0 : 1;
}
