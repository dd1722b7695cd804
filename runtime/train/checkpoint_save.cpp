#include "runtime/train/checkpoint_save.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "models/model_output.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checkpoint_sources.h"
#include "runtime/train/checkpoint_tensors.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/job_record.h"
#include "runtime/train/model_record.h"
#include "runtime/train/output_file.h"
#include "runtime/train/trainer_state.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kResultFolder = ".result.partial";

nlohmann::ordered_json state_json(const ModelSetup& setup, const Config& config, const CheckpointState& state) {
  nlohmann::ordered_json json;
  json["global_step"] = state.step;
  json["max_steps"] = state.steps_total;
  json["start_seconds"] = state.start_seconds;
  json["validation_losses"] = state.validation_losses;
  json.update(record_of(config));
  json["model"] = record_of(setup);
  json["dataset_hash"] = state.dataset_hash;
  if (state.loss_scale) json["loss_scale"] = to_json(*state.loss_scale);
  json["checksums"] = kChecksumsFile;
  return json;
}

models::ModelOutput output_of(const ModelSetup& setup, const Config& config) {
  return setup.adapter ? models::plan_adapter_output(config.base_model, setup.model.groups, *setup.adapter)
                       : models::plan_model_output(config.base_model, setup.model.groups, setup.model.compute_dtype);
}

constexpr const char* kWritingResult = "writing the result";

SpacePatience patience_of(const Config& config) { return SpacePatience::of(config.offload.enospc_timeout); }

fs::path begin_checkpoint(const Config& config, const CheckpointState& state) {
  return train::begin_checkpoint(config.output_dir, state.step, patience_of(config));
}

// Gives what is written its name.
fs::path finish_checkpoint(const fs::path& partial, const Config& config, const CheckpointState& state,
                           const nlohmann::ordered_json& about, Checksums sums) {
  write_text(partial, kStateFile, about.dump(2) + "\n", sums, patience_of(config));
  write_file(partial / kChecksumsFile, to_json(sums), patience_of(config));
  return commit_checkpoint(config.output_dir, state.step);
}

exec::WeightsSink to_weights(
    auto& writer, Advance written = [](int64_t) {}) {
  return [&writer, written = std::move(written)](int g, std::span<const std::byte> bytes) {
    writer.weights(g, bytes);
    written(static_cast<int64_t>(bytes.size()));
  };
}
exec::StatesSink to_states(auto& writer) {
  return [&writer](int g, int64_t begin, int64_t end, std::span<const std::byte> bytes) {
    writer.states(g, begin, end, bytes);
  };
}

void write_model(exec::Executor& executor, const ModelSetup& setup, const Config& config, bool odd,
                 const fs::path& folder, Checksums& sums, Work& work) {
  ModelWriter writer(setup, output_of(setup, config), folder, patience_of(config));
  executor.read_back(odd, exec::ReadBackOf::everything, to_weights(writer, work.advance()),
                     writer.needs_states() ? to_states(writer) : exec::StatesSink());
  writer.finish(sums);
}

void write_model_and_states(exec::Executor& executor, const ModelSetup& setup, const Config& config, bool odd,
                            const fs::path& folder, Checksums& sums, Work& work) {
  ModelWriter model(setup, output_of(setup, config), folder, patience_of(config));
  const FlatContent content{[](size_t) { return false; }, [](size_t) { return true; }};
  FlatWriter states(setup, content, folder, kStatesFile, "sluice-states-2", patience_of(config));
  executor.read_back(odd, exec::ReadBackOf::everything, to_weights(model, work.advance()),
                     [&](int g, int64_t begin, int64_t end, std::span<const std::byte> bytes) {
                       model.states(g, begin, end, bytes);
                       states.states(g, begin, end, bytes);
                       work.add(static_cast<int64_t>(bytes.size()));
                     });
  states.finish(sums);
  model.finish(sums);
}

// Of what is trained, as it lies in memory.
int64_t trained_bytes(const ModelSetup& setup, CheckpointOf of) {
  int64_t bytes = 0;
  for (size_t g = 0; g < setup.model.groups.size(); ++g) {
    const models::ParameterGroup& group = setup.model.groups[g];
    if (!group.trainable) continue;
    bytes += group.elements * size_of(setup.model.compute_dtype);
    if (of == CheckpointOf::model_and_states) bytes += setup.states[g].bytes(0, group.elements);
  }
  return bytes;
}

void write_resident(exec::Executor& executor, const ModelSetup& setup, const plan::Plan& plan, const Config& config,
                    bool odd, const fs::path& folder, Checksums& sums) {
  const FlatContent content{[&](size_t g) { return plan.groups[g].weights != Tier::disk; },
                            [&](size_t g) { return plan.groups[g].states != Tier::disk; }};
  const auto resident = [&](size_t g) {
    return setup.model.groups[g].trainable && (content.weights(g) || content.states(g));
  };
  bool any = false;
  for (size_t g = 0; g < plan.groups.size(); ++g) any |= resident(g);
  if (!any) return;
  FlatWriter writer(setup, content, folder, kResidentFile, "sluice-resident-1", patience_of(config));
  executor.read_back(odd, exec::ReadBackOf::memory, to_weights(writer), to_states(writer));
  writer.finish(sums);
}

Manifest manifest_of(const std::vector<exec::TrainedExtent>& extents, const swap::SwapEngine& swap,
                     const ModelSetup& setup, const Config& config) {
  Manifest manifest;
  for (size_t path = 0; path < config.offload.nvme_path.size(); ++path)
    manifest.files.push_back(fs::absolute(swap.file(static_cast<int>(path))).lexically_normal());
  for (const exec::TrainedExtent& each : extents) {
    const auto g = static_cast<size_t>(each.group);
    ManifestExtent extent{each.name, setup.model.groups[g].name, each.begin, each.end, each.bytes, {}, {}};
    if (each.content == plan::Tag::states) {
      const StateSpans spans = setup.states[g].spans(each.begin, each.end);
      for (size_t part = 0; part < spans.size(); ++part)
        if (spans[part].count > 0)
          extent.parts.push_back({std::string(name_of(static_cast<StatePart>(part))),
                                  std::string(name_of(spans[part].dtype)), spans[part].begin, spans[part].count,
                                  spans[part].offset});
    }
    for (const swap::Piece& piece : swap.pieces(each.extent))
      extent.pieces.push_back({piece.path, piece.offset, piece.bytes, piece.checksum});
    manifest.extents.push_back(std::move(extent));
  }
  return manifest;
}

// Without it, shards are no model: an older result's goes first and the new one comes last, so that a mixture of both
// never looks whole.
bool is_index(const fs::path& name) { return name.string().ends_with(".index.json"); }

// Names below `from`, of files that are part of a result.
std::vector<fs::path> result_files(const fs::path& from) {
  std::vector<fs::path> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(from))
    if (!entry.is_directory()) names.push_back(fs::relative(entry.path(), from));
  std::erase_if(names, [](const fs::path& name) { return name == kStatesFile || name == kChecksumsFile; });
  std::stable_partition(names.begin(), names.end(), [](const fs::path& name) { return !is_index(name); });
  return names;
}

// `put` gives a file of `from` its name in `to`.
void put_in_place(const fs::path& from, const fs::path& to,
                  const std::function<void(const fs::path& file, const fs::path& place)>& put) {
  const std::vector<fs::path> names = result_files(from);
  for (const fs::path& name : names)
    if (is_index(name)) fs::remove(to / name);
  sync_folder(to);
  for (const fs::path& name : names) {
    const fs::path place = to / name;
    make_folders(place.parent_path());
    if (is_index(name)) sync_folders(to / name.parent_path());
    put(from / name, place);
    if (place.parent_path() != to) sync_folder(place.parent_path());
  }
  sync_folder(to);
}

// `write` fills the folder it is given.
void export_through(const fs::path& output_dir, const std::function<void(const fs::path&)>& write) {
  const fs::path partial = output_dir / kResultFolder;
  fs::remove_all(partial);
  make_folders(partial);
  write(partial);
  sync_folders(partial);
  put_in_place(partial, output_dir, [](const fs::path& file, const fs::path& place) { fs::rename(file, place); });
  fs::remove_all(partial);
}

}  // namespace

fs::path save_copy(exec::Executor& executor, const ModelSetup& setup, const Config& config,
                   const CheckpointState& state, CheckpointOf of, WorkObserver& observer) {
  const fs::path partial = begin_checkpoint(config, state);
  Work work(observer, "writing checkpoint-" + std::to_string(state.step), trained_bytes(setup, of), WorkUnit::bytes);
  Checksums sums;
  nlohmann::ordered_json about = state_json(setup, config, state);
  if (of == CheckpointOf::model) {
    about["model_only"] = true;
    write_model(executor, setup, config, state.odd, partial, sums, work);
  } else {
    write_model_and_states(executor, setup, config, state.odd, partial, sums, work);
  }
  return finish_checkpoint(partial, config, state, about, std::move(sums));
}

fs::path save_manifest(exec::Executor& executor, const swap::SwapEngine& swap, const ModelSetup& setup,
                       const plan::Plan& plan, const Config& config, const CheckpointState& state) {
  const fs::path partial = begin_checkpoint(config, state);
  Checksums sums;
  const SpacePatience patience = patience_of(config);
  write_resident(executor, setup, plan, config, state.odd, partial, sums);
  write_text(partial, kManifestFile,
             to_json(manifest_of(executor.trained_extents(state.odd), swap, setup, config), partial), sums, patience);
  sums["plan.yaml"] = write_copy(config.output_dir / "plan.yaml", partial / "plan.yaml", patience);
  nlohmann::ordered_json about = state_json(setup, config, state);
  about["manifest"] = kManifestFile;
  return finish_checkpoint(partial, config, state, about, std::move(sums));
}

fs::path renew_checkpoint(const fs::path& from, const ModelSetup& setup, const Config& config,
                          const CheckpointState& state) {
  const SpacePatience patience = patience_of(config);
  const fs::path partial = begin_checkpoint(config, state);
  Checksums sums = fs::exists(from / kChecksumsFile) ? read_checksums(from / kChecksumsFile) : Checksums();
  nlohmann::ordered_json about = state_json(setup, config, state);
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(from)) {
    const fs::path name = fs::relative(entry.path(), from);
    if (entry.is_directory() || name == kStateFile || name == kChecksumsFile || name == kVoidFile) continue;
    if (name == kManifestFile) {
      about["manifest"] = kManifestFile;
      write_text(partial, kManifestFile, to_json(read_manifest(from), partial), sums, patience);
      continue;
    }
    make_folders((partial / name).parent_path(), patience);
    const FileSums copied = write_copy(entry.path(), partial / name, patience);
    sums.try_emplace(name, copied);
  }
  return finish_checkpoint(partial, config, state, about, std::move(sums));
}

void export_model(exec::Executor& executor, const ModelSetup& setup, const Config& config, const CheckpointState& state,
                  WorkObserver& observer) {
  Work work(observer, kWritingResult, trained_bytes(setup, CheckpointOf::model), WorkUnit::bytes);
  export_through(config.output_dir, [&](const fs::path& folder) {
    Checksums sums;
    write_model(executor, setup, config, state.odd, folder, sums, work);
    write_text(folder, kStateFile, state_json(setup, config, state).dump(2) + "\n", sums, patience_of(config));
  });
}

void export_model(const fs::path& checkpoint, const ModelSetup& setup, const Config& config, WorkObserver& observer) {
  Work work(observer, kWritingResult, trained_bytes(setup, CheckpointOf::model), WorkUnit::bytes);
  const CheckpointSources sources = sources_in(checkpoint, setup);
  export_through(config.output_dir, [&](const fs::path& folder) {
    Checksums sums;
    ModelWriter writer(setup, output_of(setup, config), folder, patience_of(config));
    for (size_t g = 0; g < setup.model.groups.size(); ++g)
      if (setup.model.groups[g].trainable) {
        const auto weights = read_weights(sources, setup, g);
        writer.weights(static_cast<int>(g), weights);
        work.add(static_cast<int64_t>(std::as_bytes(std::span(weights)).size()));
      }
    writer.finish(sums);
    write_copy(checkpoint / kStateFile, folder / kStateFile);
  });
}

void publish_result(const fs::path& checkpoint, const fs::path& output_dir) {
  put_in_place(checkpoint, output_dir, [](const fs::path& file, const fs::path& place) {
    fs::remove(place);
    std::error_code cannot_link;
    fs::create_hard_link(file, place, cannot_link);
    if (cannot_link) write_copy(file, place);
  });
}

}  // namespace sluice::train
