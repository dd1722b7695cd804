#include "runtime/train/job.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <utility>

#include "models/kernel_cache.h"
#include "runtime/core/result.h"
#include "runtime/exec/block_prediction.h"
#include "runtime/plan/choices.h"
#include "runtime/train/advice.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checkpoint_sources.h"
#include "runtime/train/drive_endurance.h"
#include "runtime/train/free_memory.h"
#include "runtime/train/gpu_library.h"
#include "runtime/train/job_measurements.h"
#include "runtime/train/job_rates.h"
#include "runtime/train/kept_checkpoints.h"
#include "runtime/train/swap_folders.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

void refuse_used_output(const Config& config, bool resumes) {
  std::error_code unreadable;
  if (resumes || !fs::exists(config.output_dir, unreadable)) return;
  if (!fs::is_directory(config.output_dir))
    throw SetupError(config.output_dir.string() + " is not a folder",
                     "give output_dir a folder, existing and empty or new");
  if (fs::is_empty(config.output_dir)) return;
  if (config.auto_resume_from_checkpoints) {
    // Whoever starts the same job after a crash, however early the crash was.
    std::fprintf(stderr, "note: %s holds no checkpoint, so the job starts at its first step\n",
                 config.output_dir.c_str());
    return;
  }
  throw SetupError("output_dir " + config.output_dir.string() + " is not empty",
                   "give another output_dir, empty this one, or go on from its checkpoint with "
                   "auto_resume_from_checkpoints: true");
}

std::string joined(const std::vector<fs::path>& paths) {
  std::string text;
  for (const fs::path& path : paths) text += (text.empty() ? "" : ", ") + path.string();
  return text;
}

std::optional<Tier> forced(Residence residence) {
  switch (residence) {
    case Residence::automatic:
      return std::nullopt;
    case Residence::device:
      return Tier::device;
    case Residence::host:
      return Tier::host;
    case Residence::disk:
      return Tier::disk;
  }
  return std::nullopt;
}

std::optional<plan::SlotFate> forced(ActivationFate fate) {
  switch (fate) {
    case ActivationFate::automatic:
      return std::nullopt;
    case ActivationFate::keep:
      return plan::SlotFate::keep;
    case ActivationFate::host:
      return plan::SlotFate::host;
    case ActivationFate::disk:
      return plan::SlotFate::disk;
    case ActivationFate::recompute:
      return plan::SlotFate::recompute;
  }
  return std::nullopt;
}

int64_t chunk_elements(const ModelSetup& setup) {
  int64_t largest = 0;
  for (const models::ParameterGroup& group : setup.model.groups)
    largest = std::max(largest, group.packed ? group.elements / 2 : group.elements);
  return plan::chunk_elements_for(largest);
}

void fill_forced(Job& job) {
  const Config& config = job.config;
  plan::PlanRequest& request = job.request;
  request.weights = forced(config.offload.params);
  request.states = forced(config.offload.optimizer);
  request.gradients = forced(config.offload.gradients);
  request.activations = forced(config.offload.activations);
  if (config.offload.update == UpdateChoice::before_forward) request.update = plan::UpdateTime::before_forward;
  if (config.offload.update == UpdateChoice::behind_backward) request.update = plan::UpdateTime::behind_backward;
  request.prefetch = config.offload.prefetch;
  request.clips = config.max_grad_norm > 0 || config.compute_dtype == Dtype::f16;
  request.source_low_bits = source_low_bits(job.setup, job.sources);
  request.resumes = job.resume.has_value();
}

// Without caps: most of what there is, the rest left to the system.
Bytes most(Bytes bytes) { return {bytes.count / 10 * 9}; }

void cap(Job& job, Tier tier, const std::optional<Bytes>& wanted, Bytes most_there_is, const std::string& origin) {
  const auto t = static_cast<size_t>(tier);
  job.request.caps[t] = wanted.value_or(most(most_there_is));
  if (!wanted) job.request.cap_origins[t] = origin;
}

// Bounds the compiled kernels: those of a step's token counts, fewer under a small cap. Returns what they will take
// beside those of the one token count that is measured.
Bytes limit_kernels(const Job& job) {
  const int64_t each = models::kernels_per_token_count(job.setup.model);
  if (each == 0) return {};
  const Bytes most{job.request.caps[static_cast<size_t>(Tier::host)].count / 16};
  const int64_t fit = most.count / models::kernel_bytes(each).count;
  const int64_t token_counts = std::clamp<int64_t>(job.batch.micro_batches, 1, std::max<int64_t>(fit, 1));
  models::limit_kernels(each * token_counts);
  return models::kernel_bytes(each * (token_counts - 1));
}

void cap_host_and_disk(Job& job) {
  const Config& config = job.config;
  cap(job, Tier::host, config.offload.max_cpu, free_memory(), "the free memory");
  cap(job, Tier::disk, config.offload.max_disk, free_disk(config.offload.nvme_path) + job.swap_place.allocated,
      "the free space of " + joined(config.offload.nvme_path));
}

plan::CheckpointShape checkpoint_shape(const Job& job) {
  plan::CheckpointShape shape{checkpoint_sets(job.config), 0, {}};
  HeldPieces held;
  for (const HeldCheckpoint& each : job.swap_place.held) {
    // One in place goes on where it lies.
    if (job.config.checkpoint == CheckpointPlace::in_place && job.resume &&
        each.folder.filename() == job.resume->folder.filename())
      continue;
    held.merge(pieces_on(job.config.offload.nvme_path, job.swap_place.file_name, each.manifest));
    ++shape.there;
  }
  for (const auto& [path, offset, bytes] : held) shape.held_bytes += Bytes{bytes};
  return shape;
}

plan::JobShape shape_of(const Job& job) {
  plan::JobShape shape = shape_of(job.setup, job.sources, job.batch, job.passes);
  shape.checkpoints = checkpoint_shape(job);
  for (size_t g = 0; g < shape.groups.size(); ++g)
    shape.groups[g].states_staging_bytes = states_staging_bytes(job.sources, job.setup, g, job.request.chunk_elements);
  return shape;
}

void refuse_taken_memory(const Job& job, const exec::GpuMemory& memory) {
  const Bytes there = memory.total - memory.others, wanted = job.config.offload.max_gpu.value_or(Bytes{});
  if (wanted <= there) return;
  throw SetupError(job.config.file.string() + ": offload.max_gpu is " + to_string(wanted) + ", and of the " +
                       to_string(memory.total) + " of " + job.gpu->name() + " other processes hold " +
                       to_string(memory.others),
                   "set offload.max_gpu to " + std::to_string(there.count >> 20) +
                       "MiB or less, or end them: `nvidia-smi` names them");
}

// Everything is measured anew at each start: it takes less than a second, and what is loaded by it is then known.
void plan_for_gpu(Job& job) {
  const Config& config = job.config;
  exec::Gpu& gpu = *job.gpu;
  job.request.memory = plan::DeviceMemory::separate;
  refuse_taken_memory(job, gpu.memory());
  const exec::OpsSize ops{job.batch.tokens_max * job.batch.micro_batches, job.batch.micro_batches,
                          job.batch.document_max, config.deterministic};
  job.setup.model = models::build_decoder(job.setup.spec, job.setup.adapter, config.compute_dtype, gpu.make_ops(ops),
                                          job.setup.low_bits.formats(), !config.own_loss.empty());
  job.passes = measured_passes(job, gpu.pass_place(), {});
  const exec::GpuMemory memory = gpu.memory();
  cap(job, Tier::device, config.offload.max_gpu, memory.total - memory.others, "the free memory of " + gpu.name());
  cap_host_and_disk(job);
  // Shorter micro-batches may cut LibTorch's memory less well than the full ones that were measured.
  job.passes.device_transient = Bytes{std::exchange(job.passes.transient, {}).count / 4 * 5 + MiB(32).count};
  job.shape = shape_of(job);
  constexpr Bytes kLoadedLater = MiB(64);  // kernels that the passes above did not meet: shorter rows, updates, norms
  job.shape.device_process_bytes = memory.context + kLoadedLater;
  gpu.hold_transient(job.passes.device_transient);
  // A loss of the program's own takes of LibTorch's memory there what no plan knows.
  if (job.loss == nullptr || !job.loss->on_gpu()) gpu.limit_transient(job.passes.device_transient);
  job.request.profile = rates_of(job);
  const exec::CopyRates copies = gpu.measure_copies();
  job.request.profile.h2d = copies.h2d;
  job.request.profile.d2h = copies.d2h;
  job.shape.device_memory_rate = gpu.measure_updates(update_kind(job));
  plan::share_lanes(job.request.profile, {Lane::h2d, copies.h2d}, {Lane::d2h, copies.d2h}, copies.both);
}

void plan_for_this_machine(Job& job) {
  const Config& config = job.config;
  job.request.memory =
      config.device == DeviceKind::emulated ? plan::DeviceMemory::separate : plan::DeviceMemory::unified;
  cap(job, Tier::device, config.offload.max_gpu, free_memory(), "the free memory");
  cap_host_and_disk(job);
  const exec::PassSize size = pass_size(job.setup, job.batch);
  const bool in_host = job.request.memory == plan::DeviceMemory::unified;
  const bool measures = measuring_memory(job.setup.model, size) <= free_memory();
  const Bytes kernels = limit_kernels(job);
  // Where not even one block has room the job is refused, whatever its times.
  if (measures) {
    const Bytes cap = job.request.caps[static_cast<size_t>(Tier::host)];
    constexpr Bytes kInsideBlocks = MiB(96);  // what LibTorch takes there is not known yet
    const Bytes spare = cap - resident_bytes() - exec::pass_memory(job.setup.model, size) - kInsideBlocks;
    job.passes = passes_of(job, std::max(spare, Bytes{}));
  }
  job.passes.blocks.resize(job.setup.model.blocks.size());
  job.passes.in_host = in_host;
  job.shape = shape_of(job);
  job.shape.process_bytes += kernels;
  if (measures) job.request.profile = rates_of(job);
  // The emulated device's memory is the host's, and so are its cores.
  if (!in_host) job.shape.device_memory_rate = job.request.profile.optimizer;
}

void plan_for(const plan::Machine& machine, Job& job) {
  const Config& config = job.config;
  const bool has_gpu = machine.device_bytes.count > 0;
  job.request.memory = has_gpu ? plan::DeviceMemory::separate : plan::DeviceMemory::unified;
  cap(job, Tier::device, config.offload.max_gpu, machine.device_bytes, "the device memory of " + machine.name);
  cap(job, Tier::host, config.offload.max_cpu, machine.host_bytes, "the memory of " + machine.name);
  // A machine file does not say how large its drives are.
  cap(job, Tier::disk, config.offload.max_disk, GiB(1 << 20), "the drives of " + machine.name);
  job.passes = exec::predict_block_passes(job.setup.model, pass_size(job.setup, job.batch), machine);
  job.shape = shape_of(job);
  if (has_gpu) job.shape.device_memory_rate = machine.device_memory;
  job.request.profile = plan::profile_of(machine);
  for (const plan::Drive& drive : machine.drives)
    job.rated_endurance += Bytes{static_cast<int64_t>(drive.rated_tbw * 1e12)};
}

void refuse_long_sequences(const Config& config, const models::DecoderSpec& spec) {
  if (config.sequence_len > spec.positions_max)
    throw SetupError(config.file.string() + ": sequence_len is " + std::to_string(config.sequence_len) +
                         " and the model's max_position_embeddings is " + std::to_string(spec.positions_max),
                     "set sequence_len to " + std::to_string(spec.positions_max) + " or less");
}

void refuse_later_checkpoint(const Resume& resume, int64_t steps_total) {
  if (resume.step <= steps_total) return;
  throw SetupError(resume.folder.string() + " is at step " + std::to_string(resume.step) +
                       " and the job ends at step " + std::to_string(steps_total),
                   "raise max_steps or num_epochs, or resume from an earlier checkpoint");
}

BatchShape batch_shape(const Job& job) {
  BatchShape batch;
  batch.tokens_max = job.data->tokens_max(job.config.micro_batch_size);
  batch.document_max = job.data->longest_document();
  batch.micro_batches = static_cast<int>(job.data->micro_batches_max());
  return batch;
}

}  // namespace

Job prepare_job(const Config& config, Purpose purpose, const plan::Machine* target, WorkObserver& observer,
                const ProgramsOwn& own) {
  Job job;
  job.config = config;
  job.loss = own.loss;
  job.resume = find_resume(config);
  if (purpose == Purpose::run) refuse_used_output(config, job.resume.has_value());
  check_nvme_paths(config);
  if (purpose == Purpose::run) {
    remove_partial_checkpoints(config.output_dir);
    remove_orphans(config.offload.nvme_path, config.output_dir, job.resume ? job.resume->folder : fs::path());
  }
  if (purpose == Purpose::run && job.resume) verify_checkpoint(*job.resume, observer);
  // Where a manifest has the weights, the base says what they are.
  const bool has_model = job.resume && !has_manifest(job.resume->folder);
  job.setup = set_up_model(config, has_model ? job.resume->folder : fs::path());
  if (!job.setup.note.empty()) std::fprintf(stderr, "note: %s\n", job.setup.note.c_str());
  refuse_long_sequences(config, job.setup.spec);
  const models::Model& model = job.setup.model;
  job.data = own.make_data ? own.make_data(job.config, model)
                           : open_datasets(job.config, model.vocabulary, model.positions_max, observer);
  if (job.resume) refuse_other_inputs(*job.resume, job.setup, job.data->content_hash());
  if (job.resume) refuse_later_checkpoint(*job.resume, job.data->steps_total());
  if (job.nothing_left() && purpose == Purpose::run) return job;
  job.learning_rate = LearningRate(config, job.data->steps_total());
  job.request.chunk_elements = chunk_elements(job.setup);
  job.sources = sources_of(job.setup, job.request.chunk_elements);
  if (job.resume)
    add_sources(sources_in(job.resume->folder, job.setup), job.setup, job.request.chunk_elements, job.sources);
  if (purpose != Purpose::rehearse && target == nullptr)
    job.swap_place = find_swap_place(config, job.resume ? job.resume->folder : fs::path());
  job.batch = batch_shape(job);
  fill_forced(job);
  job.gpu = target ? nullptr : gpu_for(config.device, config.file.string());
  if (target) {
    job.target = *target;
    plan_for(*target, job);
  } else {
    // At the first start of such a job; at later ones it is known.
    const Work work(observer, "measuring what a block of this job takes", 0, WorkUnit::items);
    job.gpu ? plan_for_gpu(job) : plan_for_this_machine(job);
    if (purpose != Purpose::run) job.rated_endurance = rated_endurance_of(config.offload.nvme_path);
  }
  if (purpose == Purpose::rehearse) job.request.profile = measure_rates_without_compute(job);
  job.request.settings_that_fit = [&job] { return settings_that_fit(job); };
  job.planned = plan::make_plan(job.shape, job.request);
  job.request.settings_that_fit = nullptr;  // it refers to this very Job
  return job;
}

void make_base(Job& job, WorkObserver& observer) { job.setup.low_bits.make(job.setup.stored, observer); }

fs::path start_adapter(Job& job, AdapterValues values, const fs::path& folder, WorkObserver& observer) {
  const auto missing =
      std::find_if(job.setup.places.begin(), job.setup.places.end(), [](const auto& places) { return places.empty(); });
  if (missing == job.setup.places.end()) return {};
  const fs::path file = folder / ".initial_adapter.safetensors";
  write_initial_adapter(job.setup, job.config.seed, values, file, observer);
  job.setup.adapter_tensors = models::TensorIndex::of_file(file);
  models::GroupSources adapters = models::locate_adapter_weights(*job.setup.adapter_tensors, job.setup.model.groups);
  for (size_t g = 0; g < adapters.size(); ++g)
    if (!adapters[g].empty()) job.setup.places[g] = std::move(adapters[g]);
  job.sources = sources_of(job.setup, job.planned.plan.chunk_elements);
  return file;
}

}  // namespace sluice::train
