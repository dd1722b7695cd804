#include "bench/literature/tables.h"

#include <cstdio>
#include <string>

#include "bench/literature/comparison.h"
#include "runtime/plan/choices.h"
#include "runtime/plan/schedule_builder.h"

namespace sluice::literature {
namespace {

constexpr std::array<int64_t, 3> kHostGigabytes = {768, 256, 128};
constexpr std::array kDrives = {1, 2, 3, 6, 12};

double giga(double count) { return count / 1e9; }
double giga(Bytes bytes) { return static_cast<double>(bytes.count) / 1e9; }

bool calibrated_on(const Published& figure) { return &figure == &kPublished[0] || &figure == &kPublished[2]; }

std::string formatted(const char* format, double number) {
  char text[32];
  std::snprintf(text, sizeof(text), format, number);
  return text;
}

// "412 (16)": tokens per second and the batch.
std::string speed(const std::optional<Outcome>& step) {
  if (!step) return "does not fit";
  std::string batch = std::to_string(step->job.rows);
  if (step->job.micro_batches > 1) batch = std::to_string(step->job.micro_batches) + " x " + batch;
  return formatted(step->tokens_per_second() < 100 ? "%.1f" : "%.0f", step->tokens_per_second()) + " (" + batch + ")";
}

std::string ratio(const std::optional<Outcome>& ours, const std::optional<Outcome>& theirs) {
  if (!ours || !theirs) return "";
  return formatted("%.2f", ours->tokens_per_second() / theirs->tokens_per_second());
}

void print_row(int64_t gigabytes, int drives, const Comparison& all) {
  std::printf("| %d GB | %d | %s | %s | %s | %s | %s | %s | %s | %s |\n", static_cast<int>(gigabytes), drives,
              speed(all.fuyou).c_str(), speed(all.zero_infinity).c_str(), speed(all.sluice).c_str(),
              all.sluice ? std::string(name_of(all.sluice->bound.lane)).c_str() : "",
              ratio(all.sluice, all.fuyou).c_str(), speed(all.sluice_same_rows).c_str(),
              ratio(all.sluice_same_rows, all.fuyou).c_str(), ratio(all.sluice, all.zero_infinity).c_str());
  std::fflush(stdout);
}

// Of the arrangement that takes the least.
plan::MemoryUse least_memory(const DenseJob& job, const plan::Machine& machine) {
  const plan::JobShape shape = dense_shape(job, machine);
  const plan::PlanRequest request = automatic_request(shape, machine);
  const plan::Choices choices(shape, request, request.chunk_elements);
  const plan::Plan plan = choices.plan_of(choices.smallest());
  plan::Layout layout;
  build_schedule(shape, plan, steady_phase(plan, job.micro_batches), request.source_low_bits, layout);
  return layout.memory();
}

}  // namespace

void print_calibration(const Fuyou& policy, const plan::Machine& file, const plan::Machine& calibrated) {
  std::printf("Calibrated: AdamW %.0f -> %.1f GB/s of DRAM, products %.0f -> %.1f TFLOP/s.\n\n",
              giga(profile_of(file).optimizer.count), giga(profile_of(calibrated).optimizer.count),
              file.gemm.at(Dtype::bf16).flops_per_second / 1e12,
              calibrated.gemm.at(Dtype::bf16).flops_per_second / 1e12);
  std::printf("| batch | drives | published TFLOPS | file as it is | error | calibrated | error | |\n");
  std::printf("|---|---|---|---|---|---|---|---|\n");
  for (const Published& figure : kPublished) {
    const double before = simulated(policy, figure, file), after = simulated(policy, figure, calibrated);
    std::printf("| %d | %d | %.1f | %.1f | %+.1f%% | %.1f | %+.1f%% | %s |\n", static_cast<int>(figure.rows),
                figure.drives, figure.tera_flops, before, 100 * (before / figure.tera_flops - 1), after,
                100 * (after / figure.tera_flops - 1), calibrated_on(figure) ? "calibrated on" : "predicted");
  }
  const std::optional<Outcome> step = fuyou_step(policy, dense_model("13B"), 32, with_drives(calibrated, 12));
  if (step) std::printf("\nBatch 32, 12 drives: %.1f GB of activations leave the device.\n", giga(step->swapped));
  const std::optional<Outcome> zero = zero_infinity_step(dense_model("13B"), 32, with_drives(calibrated, 12));
  if (zero) std::printf("ZeRO-Infinity there: %.1f TFLOPS.\n\n", zero->counted_flops_per_second() / 1e12);
}

void print_comparison(const DenseModel& model, const Fuyou& policy, const plan::Machine& machine, StateFormat states) {
  const char* moments = states == StateFormat::split_master_int8   ? ", our moments in 8 bits"
                        : states == StateFormat::split_master_bf16 ? ", our moments in bf16"
                                                                   : "";
  std::printf("### %s: %d layers, hidden %d%s\n\n", model.name.c_str(), static_cast<int>(model.layers),
              static_cast<int>(model.hidden), moments);
  std::printf(
      "| RAM | drives | Fuyou (batch) | ZeRO-Infinity (batch) | ours (micro-batches x rows) | binds | over Fuyou | "
      "ours at Fuyou's batch | over Fuyou | over ZeRO-Infinity |\n");
  std::printf("|---|---|---|---|---|---|---|---|---|---|\n");
  Comparer comparer(model, policy, states);
  for (const int64_t gigabytes : kHostGigabytes)
    for (const int drives : kDrives) {
      plan::Machine variant = with_drives(machine, drives);
      variant.host_bytes = {gigabytes * 1'000'000'000};
      print_row(gigabytes, drives, comparer.on(variant));
    }
  std::printf("\n");
}

void print_device_room(const plan::Machine& machine) {
  std::printf("GB of the device in the smallest arrangement of micro-batches of one sequence; its cap is %.1f.\n\n",
              giga(caps_of(machine)[static_cast<size_t>(Tier::device)]));
  std::printf(
      "| model | micro-batches | weights | gradients | boundaries | workspace | all "
      "|\n|---|---|---|---|---|---|---|\n");
  for (const DenseModel& model : dense_models())
    for (const int micro_batches : {1, 2}) {
      const plan::MemoryUse memory = least_memory({model, 1024, 1, micro_batches}, machine);
      const auto tag = [&](plan::Tag which) {
        return giga(memory.by_tag[static_cast<size_t>(Tier::device)][static_cast<size_t>(which)]);
      };
      std::printf("| %s | %d | %.1f | %.1f | %.1f | %.1f | %.1f |\n", model.name.c_str(), micro_batches,
                  tag(plan::Tag::weights), tag(plan::Tag::gradients), tag(plan::Tag::boundaries),
                  tag(plan::Tag::workspace), giga(memory.peak[static_cast<size_t>(Tier::device)]));
    }
  std::printf("\n");
}

void print_against_published(const plan::Machine& machine) {
  std::printf("| batch | drives | Fuyou, published (8 FLOPs) | RAM | ours | over it |\n|---|---|---|---|---|---|\n");
  const DenseModel& model = dense_model("13B");
  for (const Published& figure : kPublished)
    for (const int64_t gigabytes : kHostGigabytes) {
      plan::Machine variant = with_drives(machine, figure.drives);
      variant.host_bytes = {gigabytes * 1'000'000'000};
      const std::optional<Outcome> ours = sluice_step(model, figure.rows, 1, variant);
      const double published = figure.tera_flops * 1e12 / (8 * static_cast<double>(model.parameters()));
      std::printf("| %d | %d | %.0f | %d GB | %s | %s |\n", static_cast<int>(figure.rows), figure.drives, published,
                  static_cast<int>(gigabytes), speed(ours).c_str(),
                  ours ? formatted("%.2f", ours->tokens_per_second() / published).c_str() : "");
    }
  std::printf("\n");
}

}  // namespace sluice::literature
