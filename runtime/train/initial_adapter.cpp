#include "runtime/train/initial_adapter.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "models/decoder_groups.h"
#include "models/ops/kernels.h"
#include "runtime/core/check.h"
#include "runtime/train/low_bit_reader.h"
#include "runtime/train/tensor_file_writer.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using models::ParameterGroup;

constexpr int64_t kPieceElements = 1 << 20;

std::vector<models::NewTensor> adapter_tensors(const ModelSetup& setup) {
  std::vector<models::NewTensor> tensors;
  for (const ParameterGroup& group : setup.model.groups)
    if (models::is_adapter_group(group))
      for (const models::ParameterTensor& tensor : group.tensors)
        tensors.push_back({tensor.name, Dtype::f32, tensor.shape});
  return tensors;
}

// 53 random bits to [-limit, limit): the same on every library.
void fill_uniform(std::mt19937_64& generator, double limit, std::span<float> values) {
  for (float& value : values)
    value = static_cast<float>((static_cast<double>(generator() >> 11) * 0x1p-52 - 1.0) * limit);
}

// Norms of the rows of a frozen base's matrices, in plain types or low bits.
class BaseNorms {
 public:
  explicit BaseNorms(const ModelSetup& setup) : setup_(setup), formats_(setup.low_bits.formats()) {
    for (size_t g = 0; g < setup.model.groups.size(); ++g) {
      const std::vector<models::ParameterTensor>& tensors = setup.model.groups[g].tensors;
      if (models::is_adapter_group(setup.model.groups[g])) continue;
      for (size_t t = 0; t < tensors.size(); ++t) places_[tensors[t].name] = setup.places[g][t];
    }
  }

  // By the kernel that forward takes norms with, so that in fp32 a new adapter changes no bit.
  void read(const std::string& matrix, int64_t columns, std::span<float> norms) const {
    const TensorVisit visit = [&](int64_t begin, std::span<float> values) {
      models::kernels(Dtype::f32)
          .row_norms(values.data(), nullptr, 0, norms.data() + begin / columns,
                     static_cast<int64_t>(values.size()) / columns, columns);
    };
    const auto rows = static_cast<int64_t>(norms.size()),
               piece = std::max<int64_t>(kPieceElements / columns, 1) * columns;
    const auto format = formats_.find(matrix);
    if (format == formats_.end()) return read_in_pieces(setup_.base.files, places_.at(matrix), piece, visit);
    read_low_bits(setup_.base.files, stored(matrix, rows, columns, format->second), piece, visit);
  }

 private:
  StoredLowBits stored(const std::string& matrix, int64_t rows, int64_t columns, models::LowBitFormat format) const {
    const std::vector<models::LowBitPiece> names = models::low_bit_pieces(matrix, rows, columns, format);
    StoredLowBits stored{format, rows, columns, 0, places_.at(names[0].name), places_.at(names[1].name), {}};
    if (!format.double_quant) return stored;
    stored.nested_scales = places_.at(names[2].name);
    const std::vector<std::byte> offset =
        read_bytes(setup_.base.files, places_.at(names[3].name), 0, sizeof stored.nested_offset);
    std::memcpy(&stored.nested_offset, offset.data(), offset.size());
    return stored;
  }

  const ModelSetup& setup_;
  const models::LowBitFormats& formats_;
  std::map<std::string, models::TensorLocation> places_;
};

// Of a base's matrix, by the name of its magnitudes.
struct MatrixShape {
  std::string name;
  int64_t columns = 0;
};
std::map<std::string, MatrixShape> matrices_by_magnitude(const models::DecoderSpec& spec) {
  std::map<std::string, MatrixShape> matrices;
  for (int64_t layer = 0; layer < spec.layers; ++layer)
    for (const models::ProjectionShape& shape : models::layer_projections(spec))
      matrices[models::adapter_tensor_name(layer, shape, models::kMagnitude)] = {
          models::layer_tensor_name(layer, std::string(shape.module_path) + ".weight"), shape.in};
  return matrices;
}

}  // namespace

models::TensorFileLayout initial_adapter_layout(const ModelSetup& setup) {
  return models::plan_tensor_file(adapter_tensors(setup), {});
}

void write_initial_adapter(const ModelSetup& setup, uint64_t seed, AdapterValues wanted, const fs::path& file,
                           WorkObserver& observer) {
  const models::TensorFileLayout layout = initial_adapter_layout(setup);
  const std::map<std::string, MatrixShape> matrices = matrices_by_magnitude(setup.spec);
  const BaseNorms norms(setup);
  TensorFileWriter writer(file.parent_path(), file.filename(), layout);
  std::mt19937_64 generator(seed);
  if (setup.adapter->decomposed && wanted == AdapterValues::initial)
    std::fprintf(stderr, "note: DoRA starts from the norms of the base's rows: it is read once for them\n");
  const bool reads = setup.adapter->decomposed && wanted == AdapterValues::initial;
  Work work(observer, "reading the norms of the base's rows", reads ? static_cast<int64_t>(matrices.size()) : 0,
            WorkUnit::items);
  for (const models::TensorLocation& tensor : layout.tensors) {
    std::vector<float> values(static_cast<size_t>(tensor.bytes) / sizeof(float), 0.0f);
    if (tensor.name.ends_with("lora_A.weight"))
      fill_uniform(generator, 1.0 / std::sqrt(static_cast<double>(tensor.shape[1])), values);
    if (const auto matrix = matrices.find(tensor.name); matrix != matrices.end() && wanted == AdapterValues::initial) {
      norms.read(matrix->second.name, matrix->second.columns, values);
      work.add(1);
    }
    writer.write(tensor.offset, std::as_bytes(std::span(values)));
  }
  writer.sync();
}

}  // namespace sluice::train
