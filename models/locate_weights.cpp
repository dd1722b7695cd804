#include "models/locate_weights.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <string_view>

#include "runtime/core/result.h"

namespace sluice::models {

namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

std::string file_of(const TensorIndex& index, const TensorLocation& tensor) {
  return index.files[static_cast<size_t>(tensor.file)].string();
}

bool is_codes(const ParameterGroup& group, const ParameterTensor& tensor) {
  return group.packed && (tensor.packed_as == Dtype::u8 || tensor.packed_as == Dtype::i8);
}

// Floats, but for the codes of low bits.
const TensorLocation& readable_tensor(const TensorIndex& index, const ParameterGroup& group,
                                      const ParameterTensor& wanted, const std::string& name) {
  const TensorLocation& tensor = index.at(name, wanted.shape);
  if (is_codes(group, wanted) && tensor.dtype == wanted.packed_as) return tensor;
  if (is_codes(group, wanted))
    throw SetupError(Error{ErrorCode::unsupported,
                           file_of(index, tensor) + ": tensor '" + name + "' at offset " +
                               std::to_string(tensor.offset) + " is stored as " + std::string(name_of(tensor.dtype)) +
                               ", and quantised as " + std::string(name_of(wanted.packed_as)),
                           "quantise the model again with bitsandbytes' defaults"});
  if (tensor.dtype == Dtype::f32 || tensor.dtype == Dtype::bf16 || tensor.dtype == Dtype::f16) return tensor;
  throw SetupError(Error{ErrorCode::unsupported,
                         file_of(index, tensor) + ": tensor '" + name + "' at offset " + std::to_string(tensor.offset) +
                             " is stored as " + std::string(name_of(tensor.dtype)),
                         "convert the model to F32, BF16 or F16"});
}

class ByteReader {
 public:
  ByteReader(const std::string& file, int64_t offset) : file_(file), stream_(file, std::ios::binary) {
    stream_.seekg(offset);
  }
  void read(std::string& piece) {
    if (!stream_.read(piece.data(), static_cast<std::streamsize>(piece.size()))) {
      throw SetupError(Error{ErrorCode::io, file_ + ": cannot be read", "check the file and its permissions"});
    }
  }

 private:
  std::string file_;
  std::ifstream stream_;
};

bool same_bytes(const TensorIndex& index, const TensorLocation& a, const TensorLocation& b) {
  constexpr int64_t kPieceBytes = 1 << 20;
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  ByteReader reader_a(file_of(index, a), a.offset);
  ByteReader reader_b(file_of(index, b), b.offset);
  std::string piece_a, piece_b;
  for (int64_t done = 0; done < a.bytes; done += kPieceBytes) {
    piece_a.resize(static_cast<size_t>(std::min(kPieceBytes, a.bytes - done)));
    piece_b.resize(piece_a.size());
    reader_a.read(piece_a);
    reader_b.read(piece_b);
    if (piece_a != piece_b) return false;
  }
  return true;
}

// transformers unties a "tied" model when the file holds two different matrices. Here config.json has to say so.
void check_tied_head(const TensorIndex& index, std::set<std::string>& used) {
  const auto head = index.tensors.find(kHead);
  if (head == index.tensors.end() || used.contains(kHead)) return;
  if (!same_bytes(index, index.tensors.at(kEmbedding), head->second)) {
    throw SetupError(file_of(index, head->second) + ": tensor '" + kHead + "' differs from '" + kEmbedding +
                         "', but config.json says tie_word_embeddings",
                     "set tie_word_embeddings to false in config.json, or remove the tensor that is not meant");
  }
  used.insert(kHead);
}

// Buffers that old checkpoints stored: computed from config.json instead.
bool is_rotary_table(std::string_view name) { return name.ends_with("rotary_emb.inv_freq"); }

void refuse_extra_tensors(const TensorIndex& index, const std::set<std::string>& used) {
  constexpr size_t kShownMax = 5;
  std::vector<std::string> extra;
  for (const auto& [name, tensor] : index.tensors) {
    if (!used.contains(name) && !is_rotary_table(name)) extra.push_back(name);
  }
  for (const auto& [name, type] : index.unreadable) {
    if (!is_rotary_table(name)) extra.push_back(name);
  }
  if (extra.empty()) return;
  std::string list;
  for (size_t i = 0; i < std::min(extra.size(), kShownMax); ++i) list += (i == 0 ? "'" : ", '") + extra[i] + "'";
  if (extra.size() > kShownMax) list += " and " + std::to_string(extra.size() - kShownMax) + " more";
  throw SetupError(Error{ErrorCode::unsupported,
                         index.files.at(0).string() + ": tensors that the model of this config does not have: " + list,
                         "use the config file that belongs to these weights (number of layers, biases, family)"});
}

std::string stored_name(const TensorIndex& index, const DecoderSpec& spec, const std::string& name) {
  const bool embedding_absent = !index.tensors.contains(kEmbedding) && !index.unreadable.contains(kEmbedding);
  if (name == kEmbedding && spec.tied_head && embedding_absent && index.tensors.contains(kHead)) return kHead;
  if (name == kHead && !index.tensors.contains(kHead) && !index.unreadable.contains(kHead)) {
    throw SetupError(Error{ErrorCode::not_found,
                           index.files.at(0).parent_path().string() + ": tensor '" + kHead +
                               "' is not there, but config.json does not say tie_word_embeddings",
                           "set tie_word_embeddings to true in config.json if the head is the embedding"});
  }
  return name;
}

}  // namespace

bool is_adapter_group(const ParameterGroup& group) { return std::string_view(group.name).ends_with(".adapter"); }

GroupSources locate_base_weights(const TensorIndex& index, const DecoderSpec& spec,
                                 const std::vector<ParameterGroup>& groups) {
  GroupSources sources(groups.size());
  std::set<std::string> used;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (is_adapter_group(groups[g])) continue;
    for (const ParameterTensor& tensor : groups[g].tensors) {
      const std::string name = stored_name(index, spec, tensor.name);
      sources[g].push_back(readable_tensor(index, groups[g], tensor, name));
      used.insert(name);
    }
  }
  if (spec.tied_head) check_tied_head(index, used);
  refuse_extra_tensors(index, used);
  return sources;
}

GroupSources locate_adapter_weights(const TensorIndex& index, const std::vector<ParameterGroup>& groups) {
  GroupSources sources(groups.size());
  std::set<std::string> used;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (!is_adapter_group(groups[g])) continue;
    for (const ParameterTensor& tensor : groups[g].tensors) {
      sources[g].push_back(readable_tensor(index, groups[g], tensor, tensor.name));
      used.insert(tensor.name);
    }
  }
  refuse_extra_tensors(index, used);
  return sources;
}

}  // namespace sluice::models
