#include "runtime/train/checkpoint_save.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <nlohmann/json.hpp>

#include "models/model_output.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checkpoint_sources.h"
#include "runtime/train/checkpoint_tensors.h"
#include "runtime/train/durable_files.h"
#include "runtime/train/job_record.h"
#include "runtime/train/model_record.h"
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

void finish_folder(const fs::path& folder, nlohmann::ordered_json state, Checksums sums) {
  write_text(folder, kStateFile, state.dump(2) + "\n", sums);
  write_file(folder / kChecksumsFile, to_json(sums));
}

exec::WeightsSink to_weights(auto& writer) {
  return [&writer](int g, std::span<const std::byte> bytes) { writer.weights(g, bytes); };
}
exec::StatesSink to_states(auto& writer) {
  return [&writer](int g, int64_t begin, int64_t end, std::span<const std::byte> bytes) {
    writer.states(g, begin, end, bytes);
  };
}

void write_model(exec::Executor& executor, const ModelSetup& setup, const Config& config, bool odd,
                 const fs::path& folder, Checksums& sums) {
  ModelWriter writer(setup, output_of(setup, config), folder);
  executor.read_back(odd, exec::ReadBackOf::everything, to_weights(writer),
                     writer.needs_states() ? to_states(writer) : exec::StatesSink());
  writer.finish(sums);
}

void write_model_and_states(exec::Executor& executor, const ModelSetup& setup, const Config& config, bool odd,
                            const fs::path& folder, Checksums& sums) {
  ModelWriter model(setup, output_of(setup, config), folder);
  const FlatContent content{[](size_t) { return false; }, [](size_t) { return true; }};
  FlatWriter states(setup, content, folder, kStatesFile, "sluice-states-2");
  executor.read_back(odd, exec::ReadBackOf::everything, to_weights(model),
                     [&](int g, int64_t begin, int64_t end, std::span<const std::byte> bytes) {
                       model.states(g, begin, end, bytes);
                       states.states(g, begin, end, bytes);
                     });
  states.finish(sums);
  model.finish(sums);
}

void write_resident(exec::Executor& executor, const ModelSetup& setup, const plan::Plan& plan, bool odd,
                    const fs::path& folder, Checksums& sums) {
  const FlatContent content{[&](size_t g) { return plan.groups[g].weights != Tier::disk; },
                            [&](size_t g) { return plan.groups[g].states != Tier::disk; }};
  const auto resident = [&](size_t g) {
    return setup.model.groups[g].trainable && (content.weights(g) || content.states(g));
  };
  bool any = false;
  for (size_t g = 0; g < plan.groups.size(); ++g) any |= resident(g);
  if (!any) return;
  FlatWriter writer(setup, content, folder, kResidentFile, "sluice-resident-1");
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

void put_in_place(const fs::path& from, const fs::path& to) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(from)) {
    if (entry.is_directory()) continue;
    const fs::path place = to / fs::relative(entry.path(), from);
    fs::create_directories(place.parent_path());
    fs::rename(entry.path(), place);
  }
  fs::remove_all(from);
  sync_folder(to);
}

// `write` fills the folder it is given.
void export_through(const fs::path& output_dir, const std::function<void(const fs::path&)>& write) {
  const fs::path partial = output_dir / kResultFolder;
  fs::remove_all(partial);
  fs::create_directories(partial);
  write(partial);
  sync_folder(partial);
  put_in_place(partial, output_dir);
}

}  // namespace

fs::path save_copy(exec::Executor& executor, const ModelSetup& setup, const Config& config,
                   const CheckpointState& state, CheckpointOf of) {
  const fs::path partial = begin_checkpoint(config.output_dir, state.step);
  Checksums sums;
  nlohmann::ordered_json about = state_json(setup, config, state);
  if (of == CheckpointOf::model) {
    about["model_only"] = true;
    write_model(executor, setup, config, state.odd, partial, sums);
  } else {
    write_model_and_states(executor, setup, config, state.odd, partial, sums);
  }
  finish_folder(partial, std::move(about), std::move(sums));
  return commit_checkpoint(config.output_dir, state.step);
}

fs::path save_manifest(exec::Executor& executor, const swap::SwapEngine& swap, const ModelSetup& setup,
                       const plan::Plan& plan, const Config& config, const CheckpointState& state) {
  const fs::path partial = begin_checkpoint(config.output_dir, state.step);
  Checksums sums;
  write_resident(executor, setup, plan, state.odd, partial, sums);
  write_text(partial, kManifestFile,
             to_json(manifest_of(executor.trained_extents(state.odd), swap, setup, config), partial), sums);
  sums["plan.yaml"] = write_copy(config.output_dir / "plan.yaml", partial / "plan.yaml");
  nlohmann::ordered_json about = state_json(setup, config, state);
  about["manifest"] = kManifestFile;
  finish_folder(partial, std::move(about), std::move(sums));
  return commit_checkpoint(config.output_dir, state.step);
}

void export_model(exec::Executor& executor, const ModelSetup& setup, const Config& config,
                  const CheckpointState& state) {
  export_through(config.output_dir, [&](const fs::path& folder) {
    Checksums sums;
    write_model(executor, setup, config, state.odd, folder, sums);
    write_text(folder, kStateFile, state_json(setup, config, state).dump(2) + "\n", sums);
  });
}

void export_model(const fs::path& checkpoint, const ModelSetup& setup, const Config& config) {
  const CheckpointSources sources = sources_in(checkpoint, setup);
  export_through(config.output_dir, [&](const fs::path& folder) {
    Checksums sums;
    ModelWriter writer(setup, output_of(setup, config), folder);
    for (size_t g = 0; g < setup.model.groups.size(); ++g)
      if (setup.model.groups[g].trainable) writer.weights(static_cast<int>(g), read_weights(sources, setup, g));
    writer.finish(sums);
    write_copy(checkpoint / kStateFile, folder / kStateFile);
  });
}

void publish_result(const fs::path& checkpoint, const fs::path& output_dir) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(checkpoint)) {
    const fs::path name = fs::relative(entry.path(), checkpoint);
    if (entry.is_directory() || name == kStatesFile || name == kChecksumsFile) continue;
    const fs::path to = output_dir / name;
    fs::create_directories(to.parent_path());
    fs::remove(to);
    std::error_code cannot_link;
    fs::create_hard_link(entry.path(), to, cannot_link);
    if (cannot_link) fs::copy_file(entry.path(), to);
  }
  sync_folder(output_dir);
}

}  // namespace sluice::train
