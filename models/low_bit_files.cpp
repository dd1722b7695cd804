#include "models/low_bit_files.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>

#include "models/json_file.h"
#include "runtime/core/dynamic_map.h"
#include "runtime/core/result.h"

namespace sluice::models {
namespace {

constexpr std::string_view kStateMark = ".quant_state.bitsandbytes__";

std::string read_bytes(const TensorIndex& index, const TensorLocation& tensor) {
  const auto& path = index.files[static_cast<size_t>(tensor.file)];
  std::ifstream file(path, std::ios::binary);
  std::string bytes(static_cast<size_t>(tensor.bytes), '\0');
  file.seekg(tensor.offset);
  if (!file.read(bytes.data(), tensor.bytes))
    throw SetupError(
        path.string() + ": tensor '" + tensor.name + "' at offset " + std::to_string(tensor.offset) + " cannot be read",
        "check the file and its permissions");
  return bytes;
}

[[noreturn]] void refuse(const TensorIndex& index, const TensorLocation& tensor, const std::string& why) {
  throw SetupError(
      Error{ErrorCode::unsupported,
            index.files[static_cast<size_t>(tensor.file)].string() + ": tensor '" + tensor.name + "' " + why,
            "quantise the model again with bitsandbytes' defaults, or give base_model its plain weights and "
            "let adapter: qlora quantise them"});
}

// A table of the file's against ours, when it has one.
template <size_t kSize>
void check_table(const TensorIndex& index, const std::string& name, const std::array<float, kSize>& ours) {
  const auto found = index.tensors.find(name);
  if (found == index.tensors.end()) return;
  const std::string bytes = found->second.dtype == Dtype::f32 ? read_bytes(index, found->second) : "";
  std::array<float, kSize> theirs{};
  if (bytes.size() == sizeof theirs) std::memcpy(theirs.data(), bytes.data(), sizeof theirs);
  // Bit for bit but for the sign of zeros.
  if (bytes.size() != sizeof theirs || theirs != ours) refuse(index, found->second, "holds other values than expected");
}

// One matrix, from the JSON text that stands in a tensor beside it.
class Description {
 public:
  Description(TensorIndex& index, const TensorLocation& state)
      : index_(index),
        state_(state),
        matrix_(state.name.substr(0, state.name.find(kStateMark))),
        text_(read_bytes(index, state)),
        json_(parse_json_object(
            text_, index.files[static_cast<size_t>(state.file)].string() + ": tensor '" + state.name + "'")) {}

  void take(LowBitCheckpoint& checkpoint) {
    LowBitFormat format;
    const Json kind = field("quant_type");
    if (kind != "nf4" && kind != "fp4") refuse(index_, state_, "has quant_type " + shown(kind));
    format.kind = kind == "fp4" ? LowBit::fp4 : LowBit::nf4;
    format.double_quant = json_.contains("nested_offset");
    if (field("blocksize") != kLowBitBlock) refuse(index_, state_, "has a blocksize other than 64");
    check_table(index_, matrix_ + ".quant_map", low_bit_values(format.kind));
    if (format.double_quant) {
      const Json offset = field("nested_offset");
      if (field("nested_blocksize") != kLowBitScaleBlock || !offset.is_number() ||
          std::abs(offset.get<double>()) > std::numeric_limits<float>::max())
        refuse(index_, state_, "has a nested_blocksize other than 256 or no nested_offset");
      check_table(index_, matrix_ + ".nested_quant_map", dynamic_values(DynamicMap::with_sign));
      checkpoint.nested_offsets[matrix_] = offset.get<float>();
    }
    checkpoint.formats[matrix_] = format;
    set_shapes();
  }

 private:
  // Null when absent. Of any type, as strangers wrote it: to be compared, not converted unseen.
  Json field(const char* key) const { return json_.contains(key) ? json_[key] : Json(); }
  // Saved with more axes, or none, the bytes are the same.
  void set_shapes() {
    for (const char* suffix : {".absmax", ".nested_absmax"})
      if (const auto found = index_.tensors.find(matrix_ + suffix); found != index_.tensors.end())
        found->second.shape = {found->second.bytes / size_of(found->second.dtype)};
    if (const auto found = index_.tensors.find(matrix_); found != index_.tensors.end())
      found->second.shape = {found->second.bytes, 1};
  }

  TensorIndex& index_;
  const TensorLocation& state_;
  std::string matrix_, text_;
  Json json_;
};

bool describes(const std::string& name, const LowBitFormats& formats) {
  for (const char* suffix : {".quant_map", ".nested_quant_map"})
    if (name.ends_with(suffix)) return formats.contains(name.substr(0, name.size() - std::strlen(suffix)));
  return name.find(kStateMark) != std::string::npos;
}

}  // namespace

LowBitCheckpoint take_low_bit_descriptions(TensorIndex& index) {
  LowBitCheckpoint checkpoint;
  for (const auto& [name, tensor] : index.tensors)
    if (name.find(kStateMark) != std::string::npos) Description(index, tensor).take(checkpoint);
  // int8: codes, a row's scale beside them, and a byte that says how rows are laid, always 0 in files.
  for (const auto& [name, tensor] : index.tensors) {
    if (tensor.dtype != Dtype::i8 || !name.ends_with(".weight")) continue;
    if (index.tensors.contains(name.substr(0, name.rfind('.')) + ".SCB"))
      checkpoint.formats[name] = {LowBit::int8, false};
  }
  std::erase_if(index.tensors, [&](const auto& entry) {
    return describes(entry.first, checkpoint.formats) || entry.first.ends_with(".weight_format");
  });
  return checkpoint;
}

}  // namespace sluice::models
