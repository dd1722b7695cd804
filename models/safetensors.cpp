#include "models/safetensors.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>

#include "models/json_file.h"
#include "models/model_folder.h"
#include "models/nearest_name.h"
#include "models/stored_type.h"
#include "runtime/core/result.h"

namespace sluice::models {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kLengthBytes = 8;               // little-endian length of the JSON that follows it
constexpr int64_t kHeaderBytesMax = 100'000'000;  // the official reader's limit
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kRestore = "download or copy the file again: its bytes do not match its own header";

std::string shown_shape(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

[[noreturn]] void corrupt(const std::string& message) {
  throw SetupError(Error{ErrorCode::corrupt, message, kRestore});
}

// ---- Reading the header of one file ----

struct StoredTensor {
  std::string name;
  const StoredType* type = nullptr;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  // bytes from the start of the data
};

struct RawHeader {
  std::string json;
  int64_t data_begin = 0;  // bytes from the start of the file
  int64_t data_bytes = 0;
};

RawHeader read_header(const fs::path& file) {
  std::error_code code;
  const auto status = fs::status(file, code);
  if (!fs::exists(status)) {
    throw SetupError(Error{ErrorCode::not_found, file.string() + ": no such file",
                           "check the path of the model directory, and that all of its files were downloaded"});
  }
  if (!fs::is_regular_file(status)) throw SetupError(file.string() + ": not a regular file", kRestore);
  const auto file_bytes = static_cast<int64_t>(fs::file_size(file));

  std::ifstream stream(file, std::ios::binary);
  if (!stream) {
    throw SetupError(Error{ErrorCode::io, file.string() + ": cannot be opened: " + std::strerror(errno),
                           "check the file's permissions"});
  }
  std::array<unsigned char, kLengthBytes> length{};
  if (file_bytes < kLengthBytes || !stream.read(reinterpret_cast<char*>(length.data()), kLengthBytes)) {
    corrupt(file.string() + ": truncated: " + std::to_string(file_bytes) +
            " bytes long, but the header's length alone takes 8");
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < length.size(); ++i) header_bytes |= static_cast<uint64_t>(length[i]) << (8 * i);
  if (header_bytes > static_cast<uint64_t>(kHeaderBytesMax)) {
    corrupt(file.string() + ": offset 0: header of " + std::to_string(header_bytes) + " bytes, the limit is " +
            std::to_string(kHeaderBytesMax) + " (is this a safetensors file?)");
  }
  RawHeader header;
  header.data_begin = kLengthBytes + static_cast<int64_t>(header_bytes);
  header.data_bytes = file_bytes - header.data_begin;
  if (header.data_bytes < 0) {
    corrupt(file.string() + ": truncated: the header ends at offset " + std::to_string(header.data_begin) +
            ", the file at " + std::to_string(file_bytes));
  }
  header.json.resize(header_bytes);
  if (!stream.read(header.json.data(), static_cast<std::streamsize>(header_bytes))) {
    throw SetupError(Error{ErrorCode::io, file.string() + ": offset 8: cannot read the header", kRestore});
  }
  if (header.json.empty() || header.json.front() != '{') {
    corrupt(file.string() + ": offset 8: the header does not start with '{' (is this a safetensors file?)");
  }
  return header;
}

// value * factor, or nullopt when it does not fit.
std::optional<int64_t> checked_product(int64_t value, int64_t factor) {
  int64_t product = 0;
  if (__builtin_mul_overflow(value, factor, &product)) return std::nullopt;
  return product;
}

int64_t read_size(const SortedJson& value, const std::string& where, const char* what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    corrupt(where + what + " holds " + shown(Json(value)) + ", expected a size in bytes or elements");
  }
  return value.get<int64_t>();
}

// Bytes of the data that shape and type call for.
int64_t bytes_wanted(const StoredTensor& tensor, const std::string& where) {
  std::optional<int64_t> bits = tensor.type->bits;
  for (const int64_t dimension : tensor.shape) {
    if (bits) bits = checked_product(*bits, dimension);
  }
  if (!bits) corrupt(where + "shape " + shown_shape(tensor.shape) + " has more elements than fit in 64 bits");
  if (*bits % 8 != 0) corrupt(where + "shape " + shown_shape(tensor.shape) + " ends inside a byte");
  return *bits / 8;
}

StoredTensor read_entry(const std::string& name, const SortedJson& entry, int64_t data_bytes, const fs::path& file) {
  const std::string where = file.string() + ": tensor '" + name + "': ";
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!entry.is_object() || !entry.contains(key)) corrupt(where + "the header has no '" + key + "' for it");
  }
  StoredTensor tensor;
  tensor.name = name;
  const SortedJson& dtype = entry["dtype"];
  tensor.type = dtype.is_string() ? find_stored_type(dtype.get_ref<const std::string&>()) : nullptr;
  if (tensor.type == nullptr) corrupt(where + "unknown dtype " + shown(Json(dtype)));
  if (!entry["shape"].is_array()) corrupt(where + "shape is " + shown(Json(entry["shape"])) + ", expected a list");
  for (const SortedJson& dimension : entry["shape"]) tensor.shape.push_back(read_size(dimension, where, "shape"));

  const SortedJson& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) {
    corrupt(where + "data_offsets is " + shown(Json(offsets)) + ", expected [begin, end]");
  }
  tensor.begin = read_size(offsets[0], where, "data_offsets");
  tensor.end = read_size(offsets[1], where, "data_offsets");
  const std::string range = "data_offsets [" + std::to_string(tensor.begin) + ", " + std::to_string(tensor.end) + "]";
  if (tensor.begin > tensor.end) corrupt(where + range + " end before they begin");
  if (tensor.end > data_bytes) {
    corrupt(where + range + " end past the data, which is " + std::to_string(data_bytes) + " bytes long (truncated?)");
  }
  const int64_t wanted = bytes_wanted(tensor, where);
  if (wanted != tensor.end - tensor.begin) {
    corrupt(where + range + " hold " + std::to_string(tensor.end - tensor.begin) + " bytes, but " +
            std::string(tensor.type->name) + " " + shown_shape(tensor.shape) + " takes " + std::to_string(wanted));
  }
  return tensor;
}

// The data must be covered exactly once: an overlap lets one tensor change another, a hole hides bytes.
void check_coverage(std::vector<StoredTensor>& tensors, const RawHeader& header, const fs::path& file) {
  std::sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t covered = 0;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.begin != covered) {
      corrupt(file.string() + ": tensor '" + tensor.name + "' starts at offset " +
              std::to_string(header.data_begin + tensor.begin) + ", but the data before it end at " +
              std::to_string(header.data_begin + covered) +
              (tensor.begin < covered ? ": they overlap" : ": a hole between them"));
    }
    covered = tensor.end;
  }
  if (covered != header.data_bytes) {
    corrupt(file.string() + ": " + std::to_string(header.data_bytes - covered) +
            " bytes after the last tensor, from offset " + std::to_string(header.data_begin + covered));
  }
}

void check_metadata(const SortedJson& metadata, const fs::path& file) {
  bool good = metadata.is_object();
  if (good) good = std::all_of(metadata.begin(), metadata.end(), [](const SortedJson& v) { return v.is_string(); });
  if (!good) corrupt(file.string() + ": __metadata__ is not a map from strings to strings");
}

// Adds the tensors of index.files[file_number].
void read_tensors(TensorIndex& index, int file_number) {
  const fs::path& file = index.files[static_cast<size_t>(file_number)];
  const RawHeader header = read_header(file);
  const SortedJson parsed = parse_sorted_json_object(header.json, file.string() + ": header (from offset 8)");
  std::vector<StoredTensor> stored;
  for (const auto& [name, entry] : parsed.items()) {
    if (name == "__metadata__") {
      check_metadata(entry, file);
    } else {
      stored.push_back(read_entry(name, entry, header.data_bytes, file));
    }
  }
  check_coverage(stored, header, file);
  for (StoredTensor& tensor : stored) {
    if (!tensor.type->dtype) {
      index.unreadable.emplace(tensor.name, tensor.type->name);
      continue;
    }
    TensorLocation location{tensor.name,
                            *tensor.type->dtype,
                            std::move(tensor.shape),
                            file_number,
                            header.data_begin + tensor.begin,
                            tensor.end - tensor.begin};
    index.tensors.emplace(tensor.name, std::move(location));
  }
}

// ---- Reading a sharded directory ----

// The index comes with the model, from strangers: it may name files of its own folder only.
fs::path shard_path(const fs::path& directory, const std::string& shard, const fs::path& index_file) {
  const std::string where = index_file.string() + ": weight_map names the shard '" + shard + "'";
  const fs::path relative(shard);
  const bool climbs = std::find(relative.begin(), relative.end(), "..") != relative.end();
  if (shard.empty() || relative.is_absolute() || climbs) {
    throw SetupError(where + ", which is outside the model's folder",
                     "name shards relative to the folder, without '..'");
  }
  const fs::path path = directory / relative;
  std::error_code code;
  if (!fs::exists(path, code)) {
    throw SetupError(
        Error{ErrorCode::not_found, where + ", but " + path.string() + " is not there", "download the missing shard"});
  }
  if (const std::optional<fs::path> outside = place_outside(directory, path)) {
    throw SetupError(where + ", a link that leaves the model's folder (to " + outside->string() + ")",
                     "put the file itself into the folder");
  }
  return path;
}

std::map<std::string, std::string> read_weight_map(const fs::path& index_file) {
  const SortedJson parsed = parse_sorted_json_object(read_small_file(index_file), index_file.string());
  const auto found = parsed.find("weight_map");
  if (found == parsed.end() || !found->is_object() || found->empty()) {
    throw SetupError(index_file.string() + ": no 'weight_map' from tensor names to shards",
                     "restore the file from the model's source");
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : found->items()) {
    if (!shard.is_string()) {
      throw SetupError(
          index_file.string() + ": weight_map['" + tensor + "'] is " + shown(Json(shard)) + ", expected a file name",
          "restore the file from the model's source");
    }
    shard_of.emplace(tensor, shard.get<std::string>());
  }
  return shard_of;
}

// Leaves in `index` what weight_map says, and nothing else: a shard may repeat a tensor that another one owns.
void read_shard(TensorIndex& index, int file_number, const std::string& shard,
                const std::map<std::string, std::string>& shard_of, const fs::path& index_file) {
  TensorIndex all;
  all.files = index.files;
  read_tensors(all, file_number);
  for (const auto& [tensor, owner] : shard_of) {
    if (owner != shard) continue;
    if (auto known = all.tensors.extract(tensor)) {
      index.tensors.insert(std::move(known));
    } else if (auto other = all.unreadable.extract(tensor)) {
      index.unreadable.insert(std::move(other));
    } else {
      throw SetupError(Error{ErrorCode::corrupt,
                             index_file.string() + ": weight_map says that tensor '" + tensor + "' is in '" + shard +
                                 "', but that file does not hold it",
                             "download the shard and the index again, from one revision"});
    }
  }
}

[[noreturn]] void no_weights(const fs::path& directory) {
  std::error_code code;
  if (!fs::is_directory(directory, code)) {
    throw SetupError(
        Error{ErrorCode::not_found, directory.string() + ": no such directory", "check the path of the model"});
  }
  const bool pickled =
      fs::exists(directory / "pytorch_model.bin", code) || fs::exists(directory / "pytorch_model.bin.index.json", code);
  throw SetupError(Error{ErrorCode::not_found,
                         directory.string() + ": neither " + kSingleFile + " nor " + kIndexFile + " is there",
                         pickled ? "convert pytorch_model.bin: load it in transformers and call save_pretrained"
                                 : "point at a Hugging Face model directory with safetensors weights"});
}

}  // namespace

TensorIndex TensorIndex::of_file(const fs::path& file) {
  TensorIndex index;
  index.files = {file};
  read_tensors(index, 0);
  return index;
}

TensorIndex TensorIndex::of_directory(const fs::path& directory) {
  std::error_code code;
  refuse_link_out(directory, kSingleFile);
  if (fs::exists(directory / kSingleFile, code)) return of_file(directory / kSingleFile);
  const fs::path index_file = directory / kIndexFile;
  if (!fs::exists(index_file, code)) no_weights(directory);

  const std::map<std::string, std::string> shard_of = read_weight_map(index_file);
  std::map<std::string, int> shards;
  for (const auto& [tensor, shard] : shard_of) shards.emplace(shard, 0);
  TensorIndex index;
  for (auto& [shard, number] : shards) {
    number = static_cast<int>(index.files.size());
    index.files.push_back(shard_path(directory, shard, index_file));
  }
  for (const auto& [shard, number] : shards) read_shard(index, number, shard, shard_of, index_file);
  return index;
}

void TensorIndex::add(const TensorIndex& other) {
  const int first = static_cast<int>(files.size());
  files.insert(files.end(), other.files.begin(), other.files.end());
  for (const auto& [name, tensor] : other.tensors) {
    tensors[name] = tensor;
    tensors[name].file += first;
  }
}

const TensorLocation& TensorIndex::at(const std::string& name, const std::vector<int64_t>& shape) const {
  const std::string where = files.size() == 1 ? files[0].string() : files.at(0).parent_path().string();
  if (const auto other = unreadable.find(name); other != unreadable.end()) {
    throw SetupError(Error{ErrorCode::unsupported, where + ": tensor '" + name + "' is stored as " + other->second,
                           "convert the model to F32, BF16 or F16"});
  }
  const auto found = tensors.find(name);
  if (found == tensors.end()) {
    std::vector<std::string> names;
    for (const auto& [known, location] : tensors) names.push_back(known);
    const std::string nearest = nearest_name(name, names);
    throw SetupError(Error{ErrorCode::not_found, where + ": tensor '" + name + "' is not there",
                           "the model's config.json asks for it; the nearest tensor here is '" + nearest + "'"});
  }
  const TensorLocation& tensor = found->second;
  if (tensor.shape != shape) {
    throw SetupError(files[static_cast<size_t>(tensor.file)].string() + ": tensor '" + name + "' at offset " +
                         std::to_string(tensor.offset) + " has shape " + shown_shape(tensor.shape) +
                         ", but the model's config asks for " + shown_shape(shape),
                     "use the config file that belongs to these weights");
  }
  return tensor;
}

}  // namespace sluice::models
