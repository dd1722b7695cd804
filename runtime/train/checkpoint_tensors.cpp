#include "runtime/train/checkpoint_tensors.h"

#include <algorithm>
#include <cstring>

#include "models/locate_weights.h"
#include "runtime/core/half.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/output_file.h"

namespace sluice::train {

namespace fs = std::filesystem;

std::string state_name(const models::ParameterGroup& group, StatePart part) {
  return group.name + "." + std::string(name_of(part));
}
std::string flat_weights_name(const models::ParameterGroup& group) { return group.name + ".weights"; }

namespace {

models::TensorFileLayout flat_layout(const ModelSetup& setup, const FlatContent& content, const std::string& format) {
  std::vector<models::NewTensor> tensors;
  for (size_t g = 0; g < setup.model.groups.size(); ++g) {
    const models::ParameterGroup& group = setup.model.groups[g];
    if (group.trainable && content.weights(g))
      tensors.push_back({flat_weights_name(group), setup.model.compute_dtype, {group.elements}});
  }
  for_each_state(setup, [&](size_t g, StatePart part, const StateSpan& span) {
    if (content.states(g)) tensors.push_back({state_name(setup.model.groups[g], part), span.dtype, {span.count}});
  });
  return models::plan_tensor_file(tensors, {{"format", format}});
}

}  // namespace

FlatWriter::FlatWriter(const ModelSetup& setup, const FlatContent& content, const fs::path& folder,
                       const std::string& name, const std::string& format, const SpacePatience& patience)
    : setup_(setup), name_(name), layout_(flat_layout(setup, content, format)), file_(folder, name, layout_, patience) {
  for (const models::TensorLocation& tensor : layout_.tensors) places_[tensor.name] = tensor;
}

void FlatWriter::weights(int g, std::span<const std::byte> bytes) {
  file_.write(places_.at(flat_weights_name(setup_.model.groups[static_cast<size_t>(g)])).offset, bytes);
}

void FlatWriter::states(int g, int64_t begin, int64_t end, std::span<const std::byte> bytes) {
  const models::ParameterGroup& group = setup_.model.groups[static_cast<size_t>(g)];
  const StateSpans spans = setup_.states[static_cast<size_t>(g)].spans(begin, end);
  for (size_t part = 0; part < spans.size(); ++part) {
    const StateSpan& span = spans[part];
    if (span.count == 0) continue;
    const int64_t place = places_.at(state_name(group, static_cast<StatePart>(part))).offset;
    file_.write(place + span.begin * size_of(span.dtype),
                bytes.subspan(static_cast<size_t>(span.offset), static_cast<size_t>(span.bytes())));
  }
}

void FlatWriter::finish(Checksums& sums) {
  file_.sync();
  sums[name_] = file_.sums();
}

ModelWriter::ModelWriter(const ModelSetup& setup, models::ModelOutput output, const fs::path& folder,
                         const SpacePatience& patience)
    : setup_(setup), output_(std::move(output)), folder_(folder), patience_(patience) {
  for (const models::PlannedTensorFile& file : output_.tensor_files)
    files_.emplace_back(folder, file.name, file.layout, patience);
}

void ModelWriter::weights(int g, std::span<const std::byte> bytes) {
  const models::ParameterGroup& group = setup_.model.groups[static_cast<size_t>(g)];
  if (!widens(group)) return write_tensors(group, bytes, size_of(setup_.model.compute_dtype));
  // What the masters have beyond them follows with the states; adapters are small enough to wait for them here.
  high_.assign(reinterpret_cast<const uint16_t*>(bytes.data()),
               reinterpret_cast<const uint16_t*>(bytes.data()) + group.elements);
  master_.assign(static_cast<size_t>(group.elements), 0);
}

bool ModelWriter::needs_states() const {
  return std::any_of(setup_.model.groups.begin(), setup_.model.groups.end(),
                     [this](const models::ParameterGroup& group) { return group.trainable && widens(group); });
}

void ModelWriter::states(int g, int64_t begin, int64_t end, std::span<const std::byte> bytes) {
  const models::ParameterGroup& group = setup_.model.groups[static_cast<size_t>(g)];
  if (widens(group))
    keep_masters(group, begin, end,
                 bytes.data() + setup_.states[static_cast<size_t>(g)].span(StatePart::master, begin, end).offset);
}

void ModelWriter::finish(Checksums& sums) {
  for (size_t i = 0; i < files_.size(); ++i) {
    files_[i].sync();
    sums[output_.tensor_files[i].name] = files_[i].sums();
  }
  for (const models::PlannedTextFile& file : output_.text_files)
    write_text(folder_, file.name, file.text, sums, patience_);
  for (const models::PlannedCopy& copy : output_.copies) {
    make_folders((folder_ / copy.name).parent_path(), patience_);
    sums[copy.name] = write_copy(copy.from, folder_ / copy.name, patience_);
  }
}

bool ModelWriter::widens(const models::ParameterGroup& group) const {
  return models::is_adapter_group(group) && setup_.model.compute_dtype != Dtype::f32;
}

void ModelWriter::keep_masters(const models::ParameterGroup& group, int64_t begin, int64_t end,
                               const std::byte* beside) {
  const std::span to = std::span(master_).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  if (setup_.model.compute_dtype == Dtype::f16) {
    std::memcpy(to.data(), beside, to.size_bytes());
  } else {
    for (size_t i = 0; i < to.size(); ++i) {
      int16_t low;
      std::memcpy(&low, beside + i * sizeof low, sizeof low);
      to[i] = join_master(high_[static_cast<size_t>(begin) + i], low);
    }
  }
  if (end == group.elements) write_tensors(group, std::as_bytes(std::span(master_)), 4);
}

void ModelWriter::write_tensors(const models::ParameterGroup& group, std::span<const std::byte> bytes, int64_t each) {
  for (const models::ParameterTensor& tensor : group.tensors) {
    const models::TensorLocation& place = output_.at(tensor.name);
    SLUICE_CHECK(place.bytes == tensor.elements * each, "the output's plan has another size for " + tensor.name);
    files_[static_cast<size_t>(place.file)].write(
        place.offset, bytes.subspan(static_cast<size_t>(tensor.offset * each), static_cast<size_t>(place.bytes)));
  }
}

void write_text(const fs::path& folder, const std::string& name, const std::string& text, Checksums& sums,
                const SpacePatience& patience) {
  write_file(folder / name, text, patience);
  sums[name] = sums_of(text);
}

}  // namespace sluice::train
