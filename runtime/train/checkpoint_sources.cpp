#include "runtime/train/checkpoint_sources.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>

#include "runtime/core/result.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checkpoint_tensors.h"
#include "runtime/train/manifest.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// Before states had formats they were all fp32, and bf16 masters' low halves had another name.
void refuse_older_states(const fs::path& folder, const models::TensorIndex& states) {
  const auto is_old = [](const auto& tensor) { return tensor.first.ends_with(".lo"); };
  if (std::any_of(states.tensors.begin(), states.tensors.end(), is_old))
    throw SetupError(
        (folder / kStatesFile).string() + " was written by an older version, whose states lie otherwise",
        "finish the job with that version, or start anew from its weights: base_model: " + folder.string());
}

class Reader {
 public:
  Reader(const fs::path& checkpoint, const ModelSetup& setup) : checkpoint_(checkpoint), setup_(setup) {
    found_.weights.resize(setup.model.groups.size());
    found_.states.resize(setup.model.groups.size());
    for (size_t g = 0; g < setup.model.groups.size(); ++g) groups_[setup.model.groups[g].name] = g;
  }

  CheckpointSources read() {
    if (has_manifest(checkpoint_)) {
      read_extents(read_manifest(checkpoint_));
      if (fs::exists(checkpoint_ / kResidentFile)) read_tensors(kResidentFile);
    } else {
      read_tensors(kStatesFile);
    }
    check_complete();
    return std::move(found_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw SetupError(checkpoint_.string() + " does not fit the model: " + what,
                     "give the same base_model, optimizer and offload.optimizer_state as when the job began");
  }

  void read_tensors(const char* name) {
    const models::TensorIndex index = models::TensorIndex::of_file(checkpoint_ / name);
    refuse_older_states(checkpoint_, index);
    const auto file = static_cast<int>(found_.files.size());
    found_.files.push_back(checkpoint_ / name);
    const auto segment_of = [&](const std::string& tensor, Dtype dtype, int64_t count) -> exec::SourceSegment {
      const models::TensorLocation& place = index.at(tensor, {count});
      if (place.dtype != dtype)
        throw SetupError((checkpoint_ / name).string() + ": " + place.name + " is " +
                             std::string(name_of(place.dtype)) + ", and the job's optimizer_state asks for " +
                             std::string(name_of(dtype)),
                         "give the same optimizer and offload.optimizer_state as when the job began");
      return {file, place.offset, dtype, 0, count};
    };
    const bool has_all = std::string_view(name) == kStatesFile;
    for (size_t g = 0; g < setup_.model.groups.size(); ++g) {
      const models::ParameterGroup& group = setup_.model.groups[g];
      if (index.tensors.contains(flat_weights_name(group)))
        found_.weights[g] = {segment_of(flat_weights_name(group), setup_.model.compute_dtype, group.elements)};
    }
    for_each_state(setup_, [&](size_t g, StatePart part, const StateSpan& span) {
      const std::string tensor = state_name(setup_.model.groups[g], part);
      if (has_all || index.tensors.contains(tensor))
        found_.states[g][static_cast<size_t>(part)] = {segment_of(tensor, span.dtype, span.count)};
    });
  }

  void read_extents(const Manifest& manifest) {
    found_.files = manifest.files;
    for (const ManifestExtent& extent : manifest.extents) {
      const auto group = groups_.find(extent.group);
      if (group == groups_.end()) refuse("it has no parameters '" + extent.group + "'");
      std::vector<exec::FileRange> ranges;
      for (const ManifestPiece& piece : extent.pieces) ranges.push_back({piece.file, piece.offset, piece.bytes});
      const size_t g = group->second;
      if (extent.parts.empty()) {
        append(found_.weights[g], extent, ranges, setup_.model.compute_dtype,
               {"", {}, 0, extent.end - extent.begin, 0});
        continue;
      }
      const StateSpans all = setup_.states[g].spans(0, setup_.model.groups[g].elements);
      for (const ManifestPart& part : extent.parts) {
        const size_t index = part_called(part.name);
        if (part.dtype != name_of(all[index].dtype))
          refuse("'" + part.name + "' of '" + extent.group + "' is " + part.dtype + " there");
        append(found_.states[g][index], extent, ranges, all[index].dtype, part);
      }
    }
  }

  size_t part_called(const std::string& name) const {
    for (size_t part = 0; part < kStateParts; ++part)
      if (name_of(static_cast<StatePart>(part)) == name) return part;
    refuse("states called '" + name + "' are not known");
  }

  void append(std::vector<exec::SourceSegment>& to, const ManifestExtent& extent,
              const std::vector<exec::FileRange>& ranges, Dtype dtype, const ManifestPart& part) const {
    if (part.count > extent.bytes / size_of(dtype) || part.offset > extent.bytes - part.count * size_of(dtype))
      refuse("'" + extent.name + "' is shorter than its states");
    exec::append_segments(to, ranges, dtype, part.offset, part.begin, part.count);
  }

  void check_complete() {
    const auto check = [&](std::vector<exec::SourceSegment>& segments, int64_t count, const std::string& what) {
      std::sort(segments.begin(), segments.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
      int64_t covered = 0;
      for (const exec::SourceSegment& segment : segments) {
        if (segment.begin != covered) break;
        covered = segment.end;
      }
      if (covered != count) refuse("'" + what + "' is not there as a whole");
    };
    const bool has_weights = has_manifest(checkpoint_);
    for (size_t g = 0; g < setup_.model.groups.size(); ++g) {
      const models::ParameterGroup& group = setup_.model.groups[g];
      if (group.trainable && has_weights) check(found_.weights[g], group.elements, flat_weights_name(group));
    }
    for_each_state(setup_, [&](size_t g, StatePart part, const StateSpan& span) {
      check(found_.states[g][static_cast<size_t>(part)], span.count, state_name(setup_.model.groups[g], part));
    });
  }

  const fs::path checkpoint_;
  const ModelSetup& setup_;
  std::map<std::string, size_t> groups_;
  CheckpointSources found_;
};

}  // namespace

CheckpointSources sources_in(const fs::path& checkpoint, const ModelSetup& setup) {
  return Reader(checkpoint, setup).read();
}

std::vector<std::byte> read_weights(const CheckpointSources& sources, const ModelSetup& setup, size_t group) {
  const int64_t each = size_of(setup.model.compute_dtype);
  std::vector<std::byte> weights(static_cast<size_t>(setup.model.groups[group].elements * each));
  for (const exec::SourceSegment& segment : sources.weights[group]) {
    const fs::path& path = sources.files[static_cast<size_t>(segment.file)];
    std::ifstream file(path, std::ios::binary);
    file.seekg(segment.offset);
    file.read(reinterpret_cast<char*>(weights.data() + segment.begin * each), (segment.end - segment.begin) * each);
    if (!file)
      throw SetupError(path.string() + " cannot be read at " + std::to_string(segment.offset), "check the drive");
  }
  return weights;
}

void add_sources(const CheckpointSources& from, const ModelSetup& setup, int64_t chunk_elements,
                 exec::JobSources& sources) {
  const auto first_file = static_cast<int>(sources.files.size());
  sources.files.insert(sources.files.end(), from.files.begin(), from.files.end());
  const auto numbered = [&](std::vector<exec::SourceSegment> segments) {
    for (exec::SourceSegment& segment : segments) segment.file += first_file;
    return segments;
  };
  sources.states.resize(setup.model.groups.size());
  for (size_t g = 0; g < setup.model.groups.size(); ++g) {
    if (!from.weights[g].empty())
      sources.weights[g] =
          exec::locate_segments(setup.model.groups[g].elements, numbered(from.weights[g]), chunk_elements);
    for (size_t part = 0; part < kStateParts; ++part) sources.states[g][part] = numbered(from.states[g][part]);
  }
}

Bytes states_staging_bytes(const exec::JobSources& sources, const ModelSetup& setup, size_t group,
                           int64_t chunk_elements) {
  if (sources.states.empty() || !setup.model.groups[group].trainable) return {};
  Bytes most;
  const int64_t elements = setup.model.groups[group].elements;
  for (int64_t begin = 0; begin < elements; begin += chunk_elements)
    most = std::max(most, Bytes{exec::locate_states(sources.states[group], setup.states[group], begin,
                                                    std::min(begin + chunk_elements, elements))
                                    .staging_bytes});
  return most;
}

}  // namespace sluice::train
