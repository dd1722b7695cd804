#include "runtime/train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "models/locate_weights.h"
#include "models/model_output.h"
#include "runtime/train/checksums.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/job_record.h"
#include "runtime/train/model_record.h"
#include "runtime/train/tensor_file_writer.h"
#include "runtime/train/trainer_state.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStatesFile = "optimizer.safetensors";
constexpr const char* kStateFile = "trainer_state.json";
constexpr const char* kChecksumsFile = "checksums.json";
constexpr std::string_view kPartialEnding = ".partial", kRemovedEnding = ".removed";

std::string checkpoint_name(int64_t step) { return "checkpoint-" + std::to_string(step); }

std::optional<int64_t> step_of(const std::string& name) {
  constexpr std::string_view prefix = "checkpoint-";
  if (!name.starts_with(prefix)) return std::nullopt;
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return step;
}

std::string state_name(const models::ParameterGroup& group, StatePart part) {
  return group.name + "." + std::string(name_of(part));
}

// Calls act(group, part, span) for every part of every trained group's states.
template <class Act>
void for_each_state(const ModelSetup& setup, const Act& act) {
  for (size_t g = 0; g < setup.model.groups.size(); ++g) {
    const models::ParameterGroup& group = setup.model.groups[g];
    if (!group.trainable) continue;
    const StateSpans spans = setup.states[g].spans(0, group.elements);
    for (size_t part = 0; part < spans.size(); ++part)
      if (spans[part].count > 0) act(g, static_cast<StatePart>(part), spans[part]);
  }
}

models::TensorFileLayout states_layout(const ModelSetup& setup) {
  std::vector<models::NewTensor> tensors;
  for_each_state(setup, [&](size_t g, StatePart part, const StateSpan& span) {
    tensors.push_back({state_name(setup.model.groups[g], part), span.dtype, {span.count}});
  });
  return models::plan_tensor_file(tensors, {{"format", "sluice-states-2"}});
}

// Receives groups from the executor and puts every tensor where the output's plan says.
class Writer {
 public:
  Writer(const ModelSetup& setup, const models::ModelOutput& output, const fs::path& folder,
         const SpacePatience& patience)
      : setup_(setup),
        output_(output),
        states_layout_(states_layout(setup)),
        states_(folder, kStatesFile, states_layout_, patience) {
    for (const models::PlannedTensorFile& file : output.tensor_files)
      files_.emplace_back(folder, file.name, file.layout, patience);
    for (const models::TensorLocation& tensor : states_layout_.tensors) state_places_[tensor.name] = tensor;
  }

  void weights(int g, std::span<const std::byte> bytes) {
    const models::ParameterGroup& group = setup_.model.groups[static_cast<size_t>(g)];
    if (widens(group)) {
      // What the masters have beyond them follows with the states; adapters are small enough to wait for them here.
      high_.assign(reinterpret_cast<const uint16_t*>(bytes.data()),
                   reinterpret_cast<const uint16_t*>(bytes.data()) + group.elements);
      master_.assign(static_cast<size_t>(group.elements), 0);
      return;
    }
    write_tensors(group, bytes, size_of(setup_.model.compute_dtype));
  }

  void states(int g, int64_t begin, int64_t end, std::span<const std::byte> bytes) {
    const models::ParameterGroup& group = setup_.model.groups[static_cast<size_t>(g)];
    const StateSpans spans = setup_.states[static_cast<size_t>(g)].spans(begin, end);
    for (size_t part = 0; part < spans.size(); ++part) {
      const StateSpan& span = spans[part];
      if (span.count == 0) continue;
      const int64_t place = state_places_.at(state_name(group, static_cast<StatePart>(part))).offset;
      states_.write(place + span.begin * size_of(span.dtype),
                    bytes.subspan(static_cast<size_t>(span.offset), static_cast<size_t>(span.bytes())));
    }
    if (widens(group))
      keep_masters(group, begin, end, bytes.data() + spans[static_cast<size_t>(StatePart::master)].offset);
  }

  void sync() {
    for (TensorFileWriter& file : files_) file.sync();
    states_.sync();
  }
  void add_sums(Checksums& sums) const {
    for (size_t i = 0; i < files_.size(); ++i) sums[output_.tensor_files[i].name] = files_[i].sums();
    sums[kStatesFile] = states_.sums();
  }

 private:
  // Adapters are saved as their fp32 masters, as peft saves them.
  bool widens(const models::ParameterGroup& group) const {
    return models::is_adapter_group(group) && setup_.model.compute_dtype != Dtype::f32;
  }
  void keep_masters(const models::ParameterGroup& group, int64_t begin, int64_t end, const std::byte* beside) {
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
  void write_tensors(const models::ParameterGroup& group, std::span<const std::byte> bytes, int64_t each) {
    for (const models::ParameterTensor& tensor : group.tensors) {
      const models::TensorLocation& place = output_.at(tensor.name);
      SLUICE_CHECK(place.bytes == tensor.elements * each, "the output's plan has another size for " + tensor.name);
      files_[static_cast<size_t>(place.file)].write(
          place.offset, bytes.subspan(static_cast<size_t>(tensor.offset * each), static_cast<size_t>(place.bytes)));
    }
  }

  const ModelSetup& setup_;
  const models::ModelOutput& output_;
  models::TensorFileLayout states_layout_;
  TensorFileWriter states_;
  std::vector<TensorFileWriter> files_;
  std::map<std::string, models::TensorLocation> state_places_;
  std::vector<uint16_t> high_;
  std::vector<float> master_;
};

// Before states had formats they were all fp32, and bf16 masters' low halves had another name.
void refuse_older_states(const fs::path& folder, const models::TensorIndex& states) {
  const auto is_old = [](const auto& tensor) { return tensor.first.ends_with(".lo"); };
  if (std::any_of(states.tensors.begin(), states.tensors.end(), is_old))
    throw SetupError(
        (folder / kStatesFile).string() + " was written by an older version, whose states lie otherwise",
        "finish the job with that version, or start anew from its weights: base_model: " + folder.string());
}

std::string state_json(const ModelSetup& setup, const Config& config, const CheckpointState& state) {
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
  return json.dump(2) + "\n";
}

void write_text(const fs::path& folder, const std::string& name, const std::string& text, Checksums& sums,
                const SpacePatience& patience) {
  write_file(folder / name, text, patience);
  sums[name] = sums_of(text);
}

std::string hint_of_another(const fs::path& folder) {
  std::vector<fs::path> all = find_checkpoints(folder.parent_path().empty() ? "." : folder.parent_path());
  std::erase_if(all, [&](const fs::path& each) { return fs::equivalent(each, folder); });
  if (all.empty()) return "there is no other checkpoint beside it: copy it again from where it came, or start anew";
  return "resume from an older checkpoint: resume_from_checkpoint: " + all.back().string();
}

std::string hint_of_one_inside(const fs::path& folder) {
  const std::vector<fs::path> inside = find_checkpoints(folder);
  if (inside.empty()) return "name a folder checkpoint-N that Sluice wrote";
  return "name the newest checkpoint in it: resume_from_checkpoint: " + inside.back().string();
}

nlohmann::json read_state(const fs::path& folder) {
  for (const char* name : {kStatesFile, kStateFile})
    if (!fs::exists(folder / name))
      throw SetupError(folder.string() + " is not a checkpoint: it has no " + name, hint_of_one_inside(folder));
  std::ifstream file(folder / kStateFile);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  try {
    return parse_trainer_state(text, (folder / kStateFile).string());
  } catch (const SetupError& error) {
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

void refuse_damage(const fs::path& folder, const Checksums& sums) {
  if (const std::optional<std::string> damage = find_damage(folder, sums))
    throw SetupError(*damage, hint_of_another(folder));
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
  const std::vector<fs::path> all = find_checkpoints(config.output_dir);
  return all.empty() ? fs::path() : all.back();
}

// They lose their names before their files: what is removed in part looks like no checkpoint.
void remove_checkpoints(std::vector<fs::path> folders) {
  for (fs::path& folder : folders) {
    const fs::path removed = folder.string() + std::string(kRemovedEnding);
    fs::remove_all(removed);
    fs::rename(folder, removed);
    folder = removed;
  }
  if (!folders.empty()) sync_folder(folders[0].parent_path());
  for (const fs::path& folder : folders) fs::remove_all(folder);
}

SpacePatience patience_of(const Config& config) { return SpacePatience::of(config.offload.enospc_timeout); }

fs::path new_partial(const Config& config, int64_t step) {
  const fs::path partial = config.output_dir / (checkpoint_name(step) + std::string(kPartialEnding));
  fs::remove_all(partial);
  make_folders(partial, patience_of(config));
  return partial;
}

// Gives what is written its name. `sums`: of the files that are there.
fs::path finish_checkpoint(const fs::path& partial, const ModelSetup& setup, const Config& config,
                           const CheckpointState& state, Checksums sums) {
  const fs::path whole = config.output_dir / checkpoint_name(state.step);
  write_text(partial, kStateFile, state_json(setup, config, state), sums, patience_of(config));
  write_file(partial / kChecksumsFile, to_json(sums), patience_of(config));
  sync_folders(partial);
  if (fs::exists(whole)) remove_checkpoints({whole});
  fs::rename(partial, whole);
  sync_folder(config.output_dir);
  return whole;
}

}  // namespace

fs::path save_checkpoint(exec::Executor& executor, const ModelSetup& setup, const Config& config,
                         const CheckpointState& state) {
  const SpacePatience patience = patience_of(config);
  const fs::path partial = new_partial(config, state.step);
  const models::ModelOutput output =
      setup.adapter ? models::plan_adapter_output(config.base_model, setup.model.groups, *setup.adapter)
                    : models::plan_model_output(config.base_model, setup.model.groups, setup.model.compute_dtype);
  Checksums sums;
  Writer writer(setup, output, partial, patience);
  executor.read_back(
      state.odd, [&](int g, std::span<const std::byte> bytes) { writer.weights(g, bytes); },
      [&](int g, int64_t begin, int64_t end, std::span<const std::byte> bytes) {
        writer.states(g, begin, end, bytes);
      });
  writer.sync();
  writer.add_sums(sums);
  for (const models::PlannedTextFile& file : output.text_files)
    write_text(partial, file.name, file.text, sums, patience);
  for (const models::PlannedCopy& copy : output.copies) {
    make_folders((partial / copy.name).parent_path(), patience);
    sums[copy.name] = write_copy(copy.from, partial / copy.name, patience);
  }
  return finish_checkpoint(partial, setup, config, state, sums);
}

fs::path renew_checkpoint(const Resume& resume, const ModelSetup& setup, const Config& config,
                          const CheckpointState& state) {
  const SpacePatience patience = patience_of(config);
  const fs::path partial = new_partial(config, state.step);
  Checksums sums = sums_in(resume.folder).value_or(Checksums());
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(resume.folder)) {
    const fs::path name = fs::relative(entry.path(), resume.folder);
    if (entry.is_directory() || name == kStateFile || name == kChecksumsFile) continue;
    make_folders((partial / name).parent_path(), patience);
    const FileSums copied = write_copy(entry.path(), partial / name, patience);
    sums.try_emplace(name, copied);
  }
  return finish_checkpoint(partial, setup, config, state, sums);
}

std::vector<fs::path> find_checkpoints(const fs::path& output_dir) {
  std::vector<fs::path> found;
  if (!fs::is_directory(output_dir)) return found;
  for (const fs::directory_entry& entry : fs::directory_iterator(output_dir))
    if (entry.is_directory() && step_of(entry.path().filename()) && fs::exists(entry.path() / kStateFile))
      found.push_back(entry.path());
  std::sort(found.begin(), found.end(),
            [](const fs::path& a, const fs::path& b) { return *step_of(a.filename()) < *step_of(b.filename()); });
  return found;
}

void prune_checkpoints(const fs::path& output_dir, int64_t limit) {
  if (limit <= 0) return;
  std::vector<fs::path> all = find_checkpoints(output_dir);
  if (all.size() <= static_cast<size_t>(limit)) return;
  all.resize(all.size() - static_cast<size_t>(limit));
  remove_checkpoints(all);
}

void remove_partial_checkpoints(const fs::path& output_dir) {
  if (!fs::is_directory(output_dir)) return;
  std::vector<fs::path> partial;
  for (const fs::directory_entry& entry : fs::directory_iterator(output_dir)) {
    const std::string name = entry.path().filename();
    for (const std::string_view ending : {kPartialEnding, kRemovedEnding})
      if (entry.is_directory() && name.ends_with(ending) && step_of(name.substr(0, name.size() - ending.size())))
        partial.push_back(entry.path());
  }
  for (const fs::path& each : partial) fs::remove_all(each);
}

std::optional<Resume> find_resume(const Config& config) {
  const fs::path folder = folder_to_resume(config);
  if (folder.empty()) return std::nullopt;
  const nlohmann::json state = read_state(folder);
  if (!state.contains("compute_dtype"))
    throw SetupError(folder.string() + " is not a checkpoint of Sluice's: " + kStateFile + " lacks compute_dtype",
                     hint_of_one_inside(folder));
  refuse_damaged_state(folder);
  refuse_other_record(state, record_of(config), folder.string());
  for (const std::string& change : changes_since(state, config)) std::fprintf(stderr, "note: %s\n", change.c_str());
  return Resume{folder, step_in(state), loss_scale_in(state)};
}

void verify_checkpoint(const Resume& resume) {
  if (const std::optional<Checksums> sums = sums_in(resume.folder)) return refuse_damage(resume.folder, *sums);
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

void add_resumed_states(const Resume& resume, const ModelSetup& setup, exec::JobSources& sources) {
  const models::TensorIndex index = models::TensorIndex::of_file(resume.folder / kStatesFile);
  refuse_older_states(resume.folder, index);
  const auto file = static_cast<int>(sources.files.size());
  sources.files.push_back(resume.folder / kStatesFile);
  sources.states.resize(setup.model.groups.size());
  for_each_state(setup, [&](size_t g, StatePart part, const StateSpan& span) {
    models::TensorLocation& place = sources.states[g][static_cast<size_t>(part)];
    place = index.at(state_name(setup.model.groups[g], part), {span.count});
    if (place.dtype != span.dtype)
      throw SetupError((resume.folder / kStatesFile).string() + ": " + place.name + " is " +
                           std::string(name_of(place.dtype)) + ", and the job's optimizer_state asks for " +
                           std::string(name_of(span.dtype)),
                       "give the same optimizer and offload.optimizer_state as when the job began");
    place.file = file;
  });
}

void publish_result(const fs::path& checkpoint, const fs::path& output_dir) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(checkpoint)) {
    const fs::path name = fs::relative(entry.path(), checkpoint);
    if (entry.is_directory() || name == kStatesFile || name == kChecksumsFile) continue;
    const fs::path to = output_dir / name;
    make_folders(to.parent_path());
    fs::remove(to);
    std::error_code cannot_link;
    fs::create_hard_link(entry.path(), to, cannot_link);
    if (cannot_link) write_copy(entry.path(), to);
    if (to.parent_path() != output_dir) sync_folder(to.parent_path());
  }
  sync_folder(output_dir);
}

}  // namespace sluice::train
