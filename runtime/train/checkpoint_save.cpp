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

// What all checkpoints have in common: the folder, its state file, its checksums, its name. `write` adds the rest, and
// to what the state file says.
using WriteRest = std::function<void(const fs::path& partial, Checksums& sums, nlohmann::ordered_json& about)>;
fs::path write_checkpoint(const ModelSetup& setup, const Config& config, const CheckpointState& state,
                          const SpacePatience& patience, const WriteRest& write) {
  fs::path committed;
  until_synced(patience, [&] {
    const fs::path partial = begin_checkpoint(config.output_dir, state.step, patience);
    Checksums sums;
    nlohmann::ordered_json about = state_json(setup, config, state);
    write(partial, sums, about);
    write_text(partial, kStateFile, about.dump(2) + "\n", sums, patience);
    write_file(partial / kChecksumsFile, to_json(sums), patience);
    committed = commit_checkpoint(config.output_dir, state.step, patience);
  });
  return committed;
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
                 const fs::path& folder, Checksums& sums, const SpacePatience& patience, Work& work) {
  ModelWriter writer(setup, output_of(setup, config), folder, patience);
  executor.read_back(odd, exec::ReadBackOf::everything, to_weights(writer, work.advance()),
                     writer.needs_states() ? to_states(writer) : exec::StatesSink());
  writer.finish(sums);
}

void write_model_and_states(exec::Executor& executor, const ModelSetup& setup, const Config& config, bool odd,
                            const fs::path& folder, Checksums& sums, const SpacePatience& patience, Work& work) {
  ModelWriter model(setup, output_of(setup, config), folder, patience);
  const FlatContent content{[](size_t) { return false; }, [](size_t) { return true; }};
  FlatWriter states(setup, content, folder, kStatesFile, "sluice-states-2", patience);
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

void write_resident(exec::Executor& executor, const ModelSetup& setup, const plan::Plan& plan, bool odd,
                    const fs::path& folder, Checksums& sums, const SpacePatience& patience) {
  const FlatContent content{[&](size_t g) { return plan.groups[g].weights != Tier::disk; },
                            [&](size_t g) { return plan.groups[g].states != Tier::disk; }};
  const auto resident = [&](size_t g) {
    return setup.model.groups[g].trainable && (content.weights(g) || content.states(g));
  };
  bool any = false;
  for (size_t g = 0; g < plan.groups.size(); ++g) any |= resident(g);
  if (!any) return;
  FlatWriter writer(setup, content, folder, kResidentFile, "sluice-resident-1", patience);
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
    if (each.content == plan::Tag::states) extent.parts = parts_of(setup.states[g], each.begin, each.end);
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
void put_in_place(const fs::path& from, const fs::path& to, const SpacePatience& patience,
                  const std::function<void(const fs::path& file, const fs::path& place)>& put) {
  const std::vector<fs::path> names = result_files(from);
  for (const fs::path& name : names)
    if (is_index(name)) fs::remove(to / name);
  sync_folder(to, patience);
  for (const fs::path& name : names) {
    const fs::path place = to / name;
    make_folders(place.parent_path(), patience);
    if (is_index(name)) sync_folders(to / name.parent_path(), patience);
    put(from / name, place);
    if (place.parent_path() != to) sync_folder(place.parent_path(), patience);
  }
  sync_folder(to, patience);
}

// `write` fills the folder it is given.
void export_through(const fs::path& output_dir, const SpacePatience& patience,
                    const std::function<void(const fs::path&)>& write) {
  const fs::path partial = output_dir / kResultFolder;
  until_synced(patience, [&] {
    fs::remove_all(partial);
    make_folders(partial, patience);
    write(partial);
    sync_folders(partial, patience);
    put_in_place(partial, output_dir, patience,
                 [&](const fs::path& file, const fs::path& place) { rename_in_place(file, place, patience); });
  });
  fs::remove_all(partial);
}

}  // namespace

fs::path save_copy(exec::Executor& executor, const ModelSetup& setup, const Config& config,
                   const CheckpointState& state, CheckpointOf of, const SpacePatience& patience,
                   WorkObserver& observer) {
  Work work(observer, "writing checkpoint-" + std::to_string(state.step), trained_bytes(setup, of), WorkUnit::bytes);
  return write_checkpoint(setup, config, state, patience,
                          [&](const fs::path& partial, Checksums& sums, nlohmann::ordered_json& about) {
                            if (of == CheckpointOf::model) {
                              about["model_only"] = true;
                              write_model(executor, setup, config, state.odd, partial, sums, patience, work);
                            } else {
                              write_model_and_states(executor, setup, config, state.odd, partial, sums, patience, work);
                            }
                          });
}

fs::path save_manifest(exec::Executor& executor, const swap::SwapEngine& swap, const ModelSetup& setup,
                       const plan::Plan& plan, const Config& config, const CheckpointState& state,
                       const SpacePatience& patience) {
  const auto write = [&](const fs::path& partial, Checksums& sums, nlohmann::ordered_json& about) {
    write_resident(executor, setup, plan, state.odd, partial, sums, patience);
    const Manifest manifest = manifest_of(executor.trained_extents(state.odd), swap, setup, config);
    write_text(partial, kManifestFile, to_json(manifest, partial), sums, patience);
    sums["plan.yaml"] = write_copy(config.output_dir / "plan.yaml", partial / "plan.yaml", patience);
    about["manifest"] = kManifestFile;
  };
  return write_checkpoint(setup, config, state, patience, write);
}

fs::path renew_checkpoint(const fs::path& from, const ModelSetup& setup, const Config& config,
                          const CheckpointState& state, const SpacePatience& patience) {
  const auto write = [&](const fs::path& partial, Checksums& sums, nlohmann::ordered_json& about) {
    if (fs::exists(from / kChecksumsFile)) sums = read_checksums(from / kChecksumsFile);
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
  };
  return write_checkpoint(setup, config, state, patience, write);
}

void export_model(exec::Executor& executor, const ModelSetup& setup, const Config& config, const CheckpointState& state,
                  const SpacePatience& patience, WorkObserver& observer) {
  Work work(observer, kWritingResult, trained_bytes(setup, CheckpointOf::model), WorkUnit::bytes);
  export_through(config.output_dir, patience, [&](const fs::path& folder) {
    Checksums sums;
    write_model(executor, setup, config, state.odd, folder, sums, patience, work);
    write_text(folder, kStateFile, state_json(setup, config, state).dump(2) + "\n", sums, patience);
  });
}

void export_model(const fs::path& checkpoint, const ModelSetup& setup, const Config& config,
                  const SpacePatience& patience, WorkObserver& observer) {
  Work work(observer, kWritingResult, trained_bytes(setup, CheckpointOf::model), WorkUnit::bytes);
  const CheckpointSources sources = sources_in(checkpoint, setup);
  export_through(config.output_dir, patience, [&](const fs::path& folder) {
    Checksums sums;
    ModelWriter writer(setup, output_of(setup, config), folder, patience);
    for (size_t g = 0; g < setup.model.groups.size(); ++g)
      if (setup.model.groups[g].trainable) {
        const auto weights = read_weights(sources, setup, g);
        writer.weights(static_cast<int>(g), weights);
        work.add(static_cast<int64_t>(std::as_bytes(std::span(weights)).size()));
      }
    writer.finish(sums);
    write_copy(checkpoint / kStateFile, folder / kStateFile, patience);
  });
}

void publish_result(const fs::path& checkpoint, const fs::path& output_dir, const SpacePatience& patience) {
  until_synced(patience, [&] {
    put_in_place(checkpoint, output_dir, patience, [&](const fs::path& file, const fs::path& place) {
      fs::remove(place);
      std::error_code cannot_link;
      fs::create_hard_link(file, place, cannot_link);
      if (!cannot_link) return;
      const fs::path partial = place.string() + ".partial";
      write_copy(file, partial, patience);
      rename_in_place(partial, place, patience);
    });
  });
}

}  // namespace sluice::train
