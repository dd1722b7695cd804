#include "runtime/train/checkpoint.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "runtime/core/result.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checksums.h"
#include "runtime/train/job_record.h"
#include "runtime/train/manifest.h"
#include "runtime/train/model_record.h"
#include "runtime/train/trainer_state.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

std::string hint_of_another(const fs::path& folder) {
  std::vector<fs::path> all = find_resumable(folder.parent_path().empty() ? "." : folder.parent_path());
  std::erase_if(all, [&](const fs::path& each) { return fs::equivalent(each, folder); });
  if (all.empty()) return "there is no other checkpoint beside it: copy it again from where it came, or start anew";
  return "resume from an older checkpoint: resume_from_checkpoint: " + all.back().string();
}

std::string hint_of_one_inside(const fs::path& folder) {
  const std::vector<fs::path> inside = find_resumable(folder);
  if (inside.empty()) return "name a folder checkpoint-N that Sluice wrote";
  return "name the newest checkpoint in it: resume_from_checkpoint: " + inside.back().string();
}

void refuse_what_cannot_resume(const fs::path& folder, const nlohmann::json& state) {
  if (is_void(folder))
    throw SetupError(
        folder.string() +
            " is void: the run went on in its place (checkpoint: in_place) and was not stopped cleanly, so "
            "the bytes on the drive are of two steps",
        "start anew in another output_dir; checkpoint: two_sets keeps a checkpoint through a kill");
  if (is_resumable(folder)) return;
  if (state.value("model_only", false))
    throw SetupError(folder.string() + " holds the model alone (save_only_model: true): it cannot be resumed",
                     "start a new job from its weights: base_model: " + folder.string());
  const char* missing = state.contains("manifest") ? kManifestFile : kStatesFile;
  throw SetupError(folder.string() + " is not a checkpoint: it has no " + missing, hint_of_one_inside(folder));
}

nlohmann::json read_state(const fs::path& folder) {
  if (!fs::exists(folder / kStateFile))
    throw SetupError(folder.string() + " is not a checkpoint: it has no " + kStateFile, hint_of_one_inside(folder));
  std::ifstream file(folder / kStateFile);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  try {
    const nlohmann::json state = parse_trainer_state(text, (folder / kStateFile).string());
    refuse_what_cannot_resume(folder, state);
    return state;
  } catch (const SetupError& error) {
    if (!error.error().hint.empty()) throw;
    throw SetupError(error.error().message, hint_of_another(folder));
  }
}

// Nothing: the checkpoint was written without.
std::optional<Checksums> sums_in(const fs::path& folder) {
  if (!fs::exists(folder / kChecksumsFile)) {
    if (read_state(folder).contains("checksums"))
      throw SetupError(folder.string() + " is damaged: " + kChecksumsFile + " is missing", hint_of_another(folder));
    return std::nullopt;
  }
  try {
    return read_checksums(folder / kChecksumsFile);
  } catch (const SetupError& error) {
    throw SetupError(error.error().message, hint_of_another(folder));
  }
}

void refuse_damage(const fs::path& folder, const Checksums& sums, const Advance& verified = {}) {
  if (const std::optional<std::string> damage = find_damage(folder, sums, verified))
    throw SetupError(*damage, hint_of_another(folder));
}

void refuse_damaged_extents(const fs::path& folder, const Manifest& manifest, const Advance& verified) {
  const std::vector<std::string> damages = find_damage(manifest, 1, verified);
  if (!damages.empty())
    throw SetupError("checkpoint " + folder.string() + ": " + damages.front(), hint_of_another(folder));
}

// Before its values are compared with ours: a flipped bit is no other job.
void refuse_damaged_state(const fs::path& folder) {
  if (const std::optional<Checksums> sums = sums_in(folder); sums && sums->contains(kStateFile))
    refuse_damage(folder, {{kStateFile, sums->at(kStateFile)}});
}

fs::path folder_to_resume(const Config& config) {
  fs::path folder = config.resume_from_checkpoint;
  if (!folder.empty()) return folder.has_filename() ? folder : folder.parent_path();  // "checkpoint-5/"
  if (!config.auto_resume_from_checkpoints) return {};
  const std::vector<fs::path> all = find_resumable(config.output_dir);
  if (!all.empty()) return all.back();
  // One that cannot be resumed says why when it is read.
  const std::vector<fs::path> others = find_checkpoints(config.output_dir);
  return others.empty() ? fs::path() : others.back();
}

}  // namespace

std::optional<Resume> find_resume(const Config& config) {
  const fs::path folder = folder_to_resume(config);
  if (folder.empty()) return std::nullopt;
  auto found = std::make_shared<const OpenFolder>(folder);
  const nlohmann::json state = read_state(folder);
  if (!state.contains("compute_dtype"))
    throw SetupError(folder.string() + " is not a checkpoint of Sluice's: " + kStateFile + " lacks compute_dtype",
                     hint_of_one_inside(folder));
  refuse_damaged_state(folder);
  refuse_other_record(state, record_of(config), folder.string());
  for (const std::string& change : changes_since(state, config)) std::fprintf(stderr, "note: %s\n", change.c_str());
  return Resume{folder, step_in(state), loss_scale_in(state), has_manifest(folder), std::move(found)};
}

void verify_checkpoint(const Resume& resume, WorkObserver& observer) {
  if (const std::optional<Checksums> sums = sums_in(resume.folder)) {
    int64_t bytes = 0;
    for (const auto& [name, file] : *sums) bytes += file.bytes;
    // The files first: the manifest, which says what else there is, is one of them.
    {
      Work work(observer, "verifying " + resume.folder.filename().string(), bytes, WorkUnit::bytes);
      refuse_damage(resume.folder, *sums, work.advance());
    }
    if (!has_manifest(resume.folder)) return;
    const Manifest manifest = read_manifest(resume.folder);
    Work work(observer, "verifying the swap files of " + resume.folder.filename().string(), bytes_of(manifest),
              WorkUnit::bytes);
    return refuse_damaged_extents(resume.folder, manifest, work.advance());
  }
  std::fprintf(stderr, "note: %s was written by an older version, without checksums: its files are not verified\n",
               resume.folder.c_str());
}

void refuse_other_inputs(const Resume& resume, const ModelSetup& setup, const std::string& dataset_hash) {
  const nlohmann::json state = read_state(resume.folder);
  const std::string folder = resume.folder.string();
  if (state.contains("model")) refuse_other_record(state["model"], record_of(setup), folder);
  if (state.contains("dataset_hash") && state["dataset_hash"] != dataset_hash)
    throw SetupError(
        folder + " was written by another job: the datasets, or the tokenizer, have other content now",
        "give the same datasets and base_model as when the job began, or start anew in another output_dir");
}

}  // namespace sluice::train
