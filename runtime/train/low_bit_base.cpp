#include "runtime/train/low_bit_base.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <optional>

#include "models/decoder_groups.h"
#include "runtime/core/result.h"
#include "runtime/train/cache_folder.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/low_bit_writer.h"
#include "runtime/train/partial_folder.h"
#include "runtime/train/swap_folders.h"
#include "runtime/train/tensor_file_writer.h"
#include "runtime/train/weights_sample.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using models::LowBit;
using models::LowBitFormat;

constexpr const char* kVersion = "1";  // of what is in the files: another is another cache

std::string text_of(LowBitFormat format) {
  return std::string(name_of(format.kind)) + (format.double_quant && format.kind != LowBit::int8 ? "-double" : "");
}
int bits_of(LowBit kind) { return kind == LowBit::int8 ? 8 : 4; }

// A drive that the user chose for what streams, else where other things are kept between runs.
fs::path caches_folder(const Config& config) {
  const std::vector<fs::path>& drives = config.offload.nvme_path;
  const bool chosen = !drives.empty() && drives != std::vector<fs::path>{config.output_dir};
  return (chosen ? drives[0] : cache_folder()) / "quantised";
}

}  // namespace

LowBitBase::LowBitBase(const Config& config, const models::DecoderSpec& spec, models::TensorIndex& stored) {
  ask(config, spec, models::take_low_bit_descriptions(stored));
  if (formats_.empty()) return;
  if (config.adapter == Adapter::none)
    throw SetupError(
        config.base_model.string() + " is quantised (" + description() + "): such a base is frozen, beside an adapter",
        "give an adapter (adapter: qlora), or plain weights as base model");
  if (quantised_already_ && offsets_.empty()) return;
  for (const auto& [name, format] : formats_)
    if (const auto found = stored.tensors.find(name); found != stored.tensors.end() && !quantised_already_)
      if (found->second.dtype != config.compute_dtype) rounded_to_ = config.compute_dtype;
  std::string made_of =
      std::string(kVersion) + ' ' + std::to_string(sample_of(stored)) + ' ' + std::string(name_of(rounded_to_));
  for (const auto& [name, format] : formats_) made_of += ' ' + name + ' ' + text_of(format);
  for (const auto& [name, offset] : offsets_) made_of += ' ' + name + ' ' + std::to_string(offset);
  const std::string key = short_hash(made_of);
  const std::string model = fs::absolute(config.base_model / "config.json").parent_path().filename().string();
  folder_ = caches_folder(config) / (model + '-' + text_of(formats_.begin()->second) + '-' + key);
  plan_files(key);
  there_ = fs::exists(folder_);
  if (there_) check_files();
}

void LowBitBase::ask(const Config& config, const models::DecoderSpec& spec, models::LowBitCheckpoint checkpoint) {
  formats_ = std::move(checkpoint.formats);
  offsets_ = std::move(checkpoint.nested_offsets);
  quantised_already_ = !formats_.empty();
  for (int64_t layer = 0; layer < spec.layers; ++layer)
    for (const models::ProjectionShape& shape : models::layer_projections(spec)) {
      const std::string name = models::layer_tensor_name(layer, std::string(shape.module_path) + ".weight");
      if (!quantised_already_ && config.low_bits) formats_[name] = *config.low_bits;
      if (formats_.contains(name)) matrices_.push_back({name, layer, shape.out, shape.in, formats_.at(name)});
    }
  if (!quantised_already_ || !config.low_bits) return;
  const LowBitFormat theirs = formats_.begin()->second;
  if (bits_of(theirs.kind) != bits_of(config.low_bits->kind))
    throw SetupError(config.base_model.string() + " is quantised already, to " + description() + ", and " +
                         config.file.string() + " asks for " + std::to_string(bits_of(config.low_bits->kind)) + " bits",
                     "remove load_in_4bit or load_in_8bit, or give base_model plain weights");
}

std::string LowBitBase::description() const {
  if (formats_.empty()) return "";
  const LowBitFormat format = formats_.begin()->second;
  return std::string(name_of(format.kind)) +
         (format.double_quant && format.kind != LowBit::int8 ? ", double quantised" : "");
}

// Layers in order, whole ones to a file.
void LowBitBase::plan_files(const std::string& key) {
  std::vector<std::vector<models::NewTensor>> files(1);
  int64_t bytes = 0, layer = 0;
  for (const LowBitMatrix& matrix : matrices_) {
    if (matrix.layer != layer && bytes > models::kShardBytesMax) {
      files.emplace_back();
      bytes = 0;
    }
    layer = matrix.layer;
    for (models::LowBitPiece& piece : pieces_of(matrix)) {
      if (quantised_already_ && !piece.name.ends_with(".nested_offset")) continue;
      int64_t piece_bytes = size_of(piece.dtype);
      for (const int64_t dimension : piece.shape) piece_bytes *= dimension;
      bytes += piece_bytes;
      files.back().push_back({std::move(piece.name), piece.dtype, std::move(piece.shape)});
    }
  }
  for (size_t i = 0; i < files.size(); ++i) {
    files_.push_back({models::shard_name("low-bits", i, files.size()),
                      models::plan_tensor_file(files[i], {{"format", "pt"}, {"sluice_low_bits", key}})});
  }
}

Bytes LowBitBase::file_bytes() const {
  Bytes all;
  for (const models::PlannedTensorFile& file : files_) all += Bytes{file.layout.file_bytes};
  return all;
}

// A finished cache is renamed into its place whole: anything else there is somebody's doing.
void LowBitBase::check_files() const {
  for (const models::PlannedTensorFile& file : files_) {
    const fs::path path = folder_ / file.name;
    const std::string fix = "remove " + folder_.string() + ": it is made again from " + "the model's files";
    std::error_code missing;
    const auto bytes = static_cast<int64_t>(fs::file_size(path, missing));
    if (missing) throw SetupError(path.string() + " is missing from the quantised base", fix);
    if (bytes != file.layout.file_bytes)
      throw SetupError(
          path.string() + " has " + std::to_string(bytes) + " bytes, not " + std::to_string(file.layout.file_bytes),
          fix);
    std::string header(file.layout.header.size(), '\0');
    std::ifstream(path, std::ios::binary).read(header.data(), static_cast<std::streamsize>(header.size()));
    if (header != file.layout.header)
      throw SetupError(path.string() + ": its header is not that of this model's quantised base", fix);
  }
}

models::TensorIndex LowBitBase::files(const models::TensorIndex& stored) const {
  models::TensorIndex all = stored, cache;
  if (!quantised_already_)
    for (const auto& [name, format] : formats_) all.tensors.erase(name);
  for (const models::PlannedTensorFile& file : files_) {
    for (const models::TensorLocation& tensor : file.layout.tensors) {
      cache.tensors[tensor.name] = tensor;
      cache.tensors[tensor.name].file = static_cast<int>(cache.files.size());
    }
    cache.files.push_back(folder_ / file.name);
  }
  all.add(cache);
  return all;
}

void LowBitBase::make(const models::TensorIndex& stored, WorkObserver& observer) {
  if (is_there()) return;
  const fs::path caches = folder_.parent_path();
  const Bytes free = free_disk({caches});
  if (free < file_bytes())
    throw SetupError(caches.string() + " has " + to_string(free) + " free, and the base in low bits takes " +
                         to_string(file_bytes()),
                     "free space, or name a drive that has it in offload.nvme_path");
  std::optional<PartialFolder> partial;
  try {
    make_folders(caches);
    partial.emplace(folder_);
  } catch (const RunError& refused) {
    throw SetupError(refused.error().message, "check the folder's permissions, or name another in offload.nvme_path");
  }
  write_files(stored, partial->path(), observer);
  partial->publish();
  there_ = true;
}

void LowBitBase::write_files(const models::TensorIndex& stored, const fs::path& folder, WorkObserver& observer) const {
  int64_t bytes = 0;
  if (!quantised_already_) {
    std::fprintf(stderr, "quantising the base to %s: %s in %s, kept for later jobs\n", description().c_str(),
                 to_string(file_bytes()).c_str(), folder_.c_str());
    for (const LowBitMatrix& matrix : matrices_) bytes += stored.at(matrix.name, {matrix.rows, matrix.columns}).bytes;
  }
  Work work(observer, (quantised_already_ ? "reading " : "quantising to ") + description(), bytes, WorkUnit::bytes);
  LowBitWriter writer(stored, rounded_to_, work.advance());
  for (const models::PlannedTensorFile& file : files_) {
    TensorFileWriter to(folder, file.name, file.layout);
    std::map<std::string, models::TensorLocation> places;
    for (const models::TensorLocation& tensor : file.layout.tensors) places[tensor.name] = tensor;
    for (const LowBitMatrix& matrix : matrices_) {
      const std::string offset = matrix.name + ".nested_offset";
      if (!quantised_already_ && places.contains(matrix.name)) writer.write(matrix, places, to);
      if (quantised_already_ && places.contains(offset))
        to.write(places.at(offset).offset, std::as_bytes(std::span(&offsets_.at(matrix.name), 1)));
    }
    to.sync();
  }
  sync_folder(folder);
}

}  // namespace sluice::train
