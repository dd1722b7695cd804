#include "runtime/train/merge.h"

#include <unistd.h>

#include <cstdio>
#include <map>

#include "models/adapter_files.h"
#include "models/decoder_groups.h"
#include "models/locate_weights.h"
#include "models/model_output.h"
#include "models/ops/ops.h"
#include "runtime/core/half.h"
#include "runtime/core/result.h"
#include "runtime/core/work_line.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/low_bit_reader.h"
#include "runtime/train/stored_tensors.h"
#include "runtime/train/tensor_file_writer.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using models::TensorLocation;

constexpr int64_t kPieceElements = 8 << 20;

// What one projection of one layer gains.
struct LowRank {
  TensorLocation a, b;
  std::optional<TensorLocation> magnitudes;
  int64_t in = 0;
};
// The same, read.
struct LowRankValues {
  std::vector<float> a, b, magnitudes;
};

fs::path base_of(const MergeOptions& options) {
  if (!options.model.empty()) return options.model;
  const fs::path file = options.adapter / models::kAdapterConfigFile;
  const std::string named = models::base_model_of_adapter(options.adapter);
  if (named.empty()) throw SetupError(file.string() + " names no base model", "give it: --model DIR");
  if (!fs::is_directory(named))
    throw SetupError(file.string() + " names " + named + " as base model, and there is no such folder",
                     "give the folder that holds it: --model DIR");
  return named;
}

void refuse_used(const fs::path& out) {
  std::error_code unreadable;
  if (!fs::exists(out, unreadable) || (fs::is_directory(out, unreadable) && fs::is_empty(out, unreadable))) return;
  throw SetupError(out.string() + " exists and is not an empty folder", "give --out a new folder");
}

fs::path parent_of(const fs::path& path) {
  const fs::path parent = fs::absolute(path).lexically_normal().parent_path();
  if (!fs::is_directory(parent))
    throw SetupError(parent.string() + " is no folder", "give --out a new folder in one that exists");
  return parent;
}

class Merge {
 public:
  explicit Merge(const MergeOptions& options)
      : base_(base_of(options)),
        out_(fs::absolute(options.out).lexically_normal()),
        spec_(models::read_decoder_spec(base_ / "config.json")),
        adapter_(models::read_adapter_directory(options.adapter, spec_)),
        weights_(models::TensorIndex::of_directory(base_)),
        ops_(models::cpu_ops()) {
    const auto groups = models::decoder_groups(spec_, std::nullopt);
    std::map<std::string, std::vector<int64_t>> shapes;
    for (const models::ParameterGroup& group : groups)
      for (const models::ParameterTensor& tensor : group.tensors) shapes[tensor.name] = tensor.shape;
    low_bits_ = LowBitReader(weights_, shapes);
    if (!low_bits_.empty() && !options.dtype)
      throw SetupError(base_.string() + " is quantised, and what is merged is written in a plain type",
                       "say which: --dtype bf16");
    const models::GroupSources places = models::locate_base_weights(weights_, spec_, groups);
    for (size_t g = 0; g < groups.size(); ++g)
      for (size_t t = 0; t < groups[g].tensors.size(); ++t) places_[groups[g].tensors[t].name] = places[g][t];
    find_low_ranks();
    output_ = options.dtype ? models::plan_model_output(base_, groups, *options.dtype)
                            : models::plan_model_output(
                                  base_, groups, [this](const std::string& name) { return places_.at(name).dtype; });
  }

  int run() {
    refuse_used(out_);
    const fs::path parent = parent_of(out_), partial = parent / ('.' + out_.filename().string() + ".merging");
    fs::remove_all(partial);
    const auto free = static_cast<int64_t>(fs::space(parent).available);
    if (free < output_.file_bytes())
      throw SetupError(parent.string() + " has " + to_string(Bytes{free}) + " free, and the merged model takes " +
                           to_string(Bytes{output_.file_bytes()}),
                       "free space, or give --out another drive");
    fs::create_directory(partial);
    write(partial);
    fs::rename(partial, out_);
    sync_folder(parent);
    std::printf("%zu projections merged, scale %g; %s in %s\n", low_ranks_.size(), adapter_.spec.scale(),
                to_string(Bytes{output_.file_bytes()}).c_str(), out_.c_str());
    return 0;
  }

 private:
  void find_low_ranks() {
    const auto groups = models::decoder_groups(spec_, adapter_.spec);
    const models::GroupSources places = models::locate_adapter_weights(adapter_.tensors, groups);
    std::map<std::string, TensorLocation> stored;
    for (size_t g = 0; g < groups.size(); ++g)
      for (size_t t = 0; t < places[g].size(); ++t) stored[groups[g].tensors[t].name] = places[g][t];
    for (int64_t layer = 0; layer < spec_.layers; ++layer)
      for (const models::ProjectionShape& projection : models::layer_projections(spec_)) {
        const auto a = stored.find(models::adapter_tensor_name(layer, projection, "lora_A.weight"));
        if (a == stored.end()) continue;
        LowRank low_rank{
            a->second, stored.at(models::adapter_tensor_name(layer, projection, "lora_B.weight")), {}, projection.in};
        if (adapter_.spec.decomposed)
          low_rank.magnitudes = stored.at(models::adapter_tensor_name(layer, projection, models::kMagnitude));
        low_ranks_[models::layer_tensor_name(layer, std::string(projection.module_path) + ".weight")] = low_rank;
      }
  }

  void write(const fs::path& folder) {
    LiveLine live(STDERR_FILENO);
    Console errors(STDERR_FILENO, &live);
    WorkLine line(live, errors);
    Work work(line, "merging", output_.file_bytes(), WorkUnit::bytes);
    written_ = work.advance();
    for (const models::PlannedTensorFile& file : output_.tensor_files) {
      TensorFileWriter writer(folder, file.name, file.layout);
      for (const TensorLocation& tensor : file.layout.tensors) write_tensor(writer, tensor);
      writer.sync();
    }
    for (const models::PlannedTextFile& file : output_.text_files) write_file(folder / file.name, file.text);
    for (const models::PlannedCopy& copy : output_.copies) {
      fs::create_directories((folder / copy.name).parent_path());
      write_copy(copy.from, folder / copy.name);
    }
    sync_folders(folder);
  }

  void write_tensor(TensorFileWriter& writer, const TensorLocation& to) {
    const auto low_rank = low_ranks_.find(to.name);
    const bool merged = low_rank != low_ranks_.end();
    // Whole rows, where there is something to add.
    const int64_t width = merged ? low_rank->second.in : 1;
    const int64_t piece = std::max(width, kPieceElements / width * width);
    const LowRankValues gain = merged ? read(low_rank->second) : LowRankValues();
    const TensorVisit visit = [&](int64_t begin, std::span<float> values) {
      if (merged) add(gain, begin / width, width, values);
      writer.write(to.offset + begin * size_of(to.dtype), converted(values, to.dtype));
      written_(static_cast<int64_t>(values.size()) * size_of(to.dtype));
    };
    if (low_bits_.holds(to.name)) return low_bits_.read(to.name, piece, visit);
    read_in_pieces(weights_.files, places_.at(to.name), piece, visit);
  }
  LowRankValues read(const LowRank& low_rank) const {
    return {whole(low_rank.a), whole(low_rank.b),
            low_rank.magnitudes ? whole(*low_rank.magnitudes) : std::vector<float>()};
  }
  std::vector<float> whole(const TensorLocation& tensor) const {
    std::vector<float> all(static_cast<size_t>(tensor.bytes / size_of(tensor.dtype)));
    read_in_pieces(adapter_.tensors.files, tensor, static_cast<int64_t>(all.size()),
                   [&](int64_t, std::span<float> values) { std::copy(values.begin(), values.end(), all.begin()); });
    return all;
  }
  // values [rows, width], from row `first` of the tensor on.
  void add(const LowRankValues& low_rank, int64_t first, int64_t width, std::span<float> values) {
    const int64_t rank = adapter_.spec.rank, rows = static_cast<int64_t>(values.size()) / width;
    gain_.resize(values.size());
    ops_->multiply(Dtype::f32, {low_rank.b.data() + first * rank, rows, rank}, {low_rank.a.data(), rank, width},
                   {gain_.data()});
    const auto scale = static_cast<float>(adapter_.spec.scale());
    for (size_t i = 0; i < values.size(); ++i) values[i] += scale * gain_[i];
    if (!low_rank.magnitudes.empty())
      set_magnitudes(std::span(low_rank.magnitudes).subspan(static_cast<size_t>(first)), width, values);
  }
  // Each row of values [rows, width] gets that norm.
  void set_magnitudes(std::span<const float> magnitudes, int64_t width, std::span<float> values) {
    const models::Kernels& k = ops_->kernels(Dtype::f32);
    const int64_t rows = static_cast<int64_t>(values.size()) / width;
    norms_.resize(static_cast<size_t>(rows));
    k.row_norms(values.data(), nullptr, 0, norms_.data(), rows, width);
    k.magnitude_factors(magnitudes.data(), norms_.data(), norms_.data(), rows);
    for (size_t i = 0; i < values.size(); ++i) values[i] *= norms_[i / static_cast<size_t>(width)];
  }
  std::span<const std::byte> converted(std::span<const float> values, Dtype dtype) {
    if (dtype == Dtype::f32) return std::as_bytes(values);
    halves_.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i)
      halves_[i] = dtype == Dtype::bf16 ? float_to_bf16(values[i]) : float_to_f16(values[i]);
    return std::as_bytes(std::span(halves_));
  }

  fs::path base_, out_;
  models::DecoderSpec spec_;
  models::AdapterDirectory adapter_;
  models::TensorIndex weights_;
  LowBitReader low_bits_;
  std::unique_ptr<models::Ops> ops_;
  std::map<std::string, TensorLocation> places_;  // of the base, by the names that are written
  std::map<std::string, LowRank> low_ranks_;
  models::ModelOutput output_;
  Advance written_;
  std::vector<float> gain_, norms_;
  std::vector<uint16_t> halves_;
};

}  // namespace

int run_merge(const MergeOptions& options) { return Merge(options).run(); }

}  // namespace sluice::train
