#include "runtime/exec/machine_probe.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <random>

#include "models/op_timing.h"
#include "runtime/core/processor.h"
#include "runtime/core/result.h"
#include "runtime/plan/fit.h"
#include "swap/host_slab.h"

namespace sluice::exec {
namespace {

using models::Product;
using models::ProductShape;

// Seconds of a full probe, by part. What they leave of the minute goes into setting up.
struct Budget {
  double gemm_per_dtype = 6, attention_per_dtype = 2.5, kernels = 0.6, dram = 0.8, copies = 0.8;
  double drives = 13, all_drives = 5, optimizer_each = 0.8, pair_each = 0.8;
  size_t products = 96, attentions = 24;
};

Budget budget_of(ProbeLength length) {
  if (length == ProbeLength::full) return {};
  return {.gemm_per_dtype = 0.8,
          .attention_per_dtype = 0.4,
          .kernels = 0.1,
          .dram = 0.1,
          .copies = 0.1,
          .drives = 0.5,
          .all_drives = 0.3,
          .optimizer_each = 0.1,
          .pair_each = 0.1,
          .products = 24,
          .attentions = 9};
}

double flops_of(const ProductShape& s) { return 2.0 * static_cast<double>(s.tokens * s.in * s.out); }

// One product that a block of a few hundred million parameters has, over and over.
class ProductLoad : public Load {
 public:
  ProductLoad(models::OpTimer& timer, Dtype dtype) : timer_(timer), dtype_(dtype) {
    timer_.product_seconds(dtype, kShape, 0);
  }
  double work() override {
    timer_.run(dtype_, kShape);
    return flops_of(kShape);
  }

 private:
  static constexpr ProductShape kShape{Product::forward, 256, 1024, 2048};
  models::OpTimer& timer_;
  Dtype dtype_;
};

// The CPU, in the given memory, or a GPU, in memory of its own.
class ComputeProbe {
 public:
  ComputeProbe(Gpu* gpu, std::span<std::byte> memory)
      : gpu_(gpu),
        host_(gpu ? nullptr : make_host_place()),
        ops_(gpu ? gpu->make_ops({models::kAttentionLengthMax, 1, models::kAttentionLengthMax}) : models::cpu_ops()),
        own_(gpu ? place().allocate(models::kOpTimerBytes) : nullptr),
        timer_({.ops = ops_.get(),
                .memory = own_ ? own_->bytes() : memory,
                .seconds_of = [this](const std::function<void()>& op) { return place().time(op).count / 1e6; },
                .write = [this](std::byte* to, std::span<const std::byte> from) { place().write(to, from); }}) {}

  // Whether it takes cores and DRAM from the other lanes.
  bool is_cpu() const { return gpu_ == nullptr; }
  std::vector<Dtype> dtypes() const { return {Dtype::f32, Dtype::bf16}; }
  models::OpTimer& timer() { return timer_; }

 private:
  PassPlace& place() const { return gpu_ ? gpu_->pass_place() : *host_; }

  Gpu* const gpu_;
  const std::unique_ptr<PassPlace> host_;
  const std::unique_ptr<models::Ops> ops_;
  const std::unique_ptr<PassPlace::Memory> own_;
  models::OpTimer timer_;
};

constexpr double kNever = 1e9;  // seconds

// Small, tall, wide and square, as layers, LoRA adapters and heads have them, each of the three products. In no order:
// every third is held out of the fit. The same shapes on every machine of one speed.
std::vector<ProductShape> product_shapes(double flops_max, size_t count) {
  static constexpr std::array tokens = {64, 128, 256, 512, 1024, 2048, 4096};
  static constexpr std::array widths = {16, 64, 128, 192, 256, 384, 576, 768, 960, 1536, 2048, 3072, 4096, 5504, 8192};
  std::minstd_rand random(7);
  const auto pick = [&](const auto& list) { return int64_t{list[random() % list.size()]}; };
  std::vector<ProductShape> shapes;
  while (shapes.size() < count) {
    const ProductShape shape{static_cast<Product>(random() % 3), pick(tokens), pick(widths), pick(widths)};
    const int64_t largest = std::max({shape.tokens * shape.in, shape.tokens * shape.out, shape.in * shape.out});
    if (flops_of(shape) <= flops_max && std::min(shape.in, shape.out) < 8192 && std::max(shape.in, shape.out) >= 64 &&
        largest <= models::kOperandElementsMax)
      shapes.push_back(shape);
  }
  return shapes;
}

// Every shape is measured in each of two passes that lie many seconds apart, and the better time counts: a neighbour's
// burst rarely lasts from one to the other.
constexpr int kPasses = 2;

class GemmProbe {
 public:
  GemmProbe(models::OpTimer& timer, Dtype dtype, const Budget& budget)
      : timer_(timer),
        dtype_(dtype),
        seconds_each_(budget.gemm_per_dtype / static_cast<double>(kPasses * budget.products)) {
    constexpr ProductShape kMiddling{Product::forward, 512, 1024, 1024};
    const double rate = flops_of(kMiddling) / timer.product_seconds(dtype, kMiddling, 0.05);
    shapes_ = product_shapes(rate * seconds_each_ / 2, budget.products);
    for (const ProductShape& shape : shapes_) samples_.push_back({shape.m(), shape.n(), shape.k(), kNever});
  }
  void measure() {
    for (size_t i = 0; i < shapes_.size(); ++i)
      samples_[i].seconds =
          std::min(samples_[i].seconds, timer_.product_seconds(dtype_, shapes_[i], seconds_each_ / 2));
  }
  plan::GemmModel fit() const { return plan::fit_gemm(samples_); }

 private:
  models::OpTimer& timer_;
  Dtype dtype_;
  double seconds_each_;
  std::vector<ProductShape> shapes_;
  std::vector<plan::GemmSample> samples_;
};

class AttentionProbe {
 public:
  AttentionProbe(models::OpTimer& timer, Dtype dtype, const Budget& budget)
      : timer_(timer),
        dtype_(dtype),
        seconds_each_(budget.attention_per_dtype / static_cast<double>(kPasses * budget.attentions)) {
    static constexpr std::array heads = {4, 8, 9, 12, 16, 32};
    static constexpr std::array sizes = {64, 128};
    static constexpr std::array lengths = {128, 256, 512, 1024, 2048, 4096};
    plan::AttentionSample middling{8, 64, 512, kNever, kNever};
    measure(middling);
    // Three times each, forward and 2.5 times that backward, and once to warm up.
    const double flops_max = std::max(1.0, seconds_each_ / 14 / middling.forward_seconds) * flops(middling);
    std::minstd_rand random(11);
    const auto pick = [&](const auto& list) { return int64_t{list[random() % list.size()]}; };
    while (samples_.size() < budget.attentions) {
      const plan::AttentionSample sample{pick(heads), pick(sizes), pick(lengths), kNever, kNever};
      const bool small = sample.heads * sample.head_dim * sample.length <= models::kAttentionElementsMax;
      if (small && flops(sample) <= flops_max) samples_.push_back(sample);
    }
  }
  void measure() {
    for (plan::AttentionSample& sample : samples_) measure(sample);
  }
  plan::AttentionModel fit() const { return plan::fit_attention(samples_); }

 private:
  static double flops(const plan::AttentionSample& s) {
    return 2.0 * static_cast<double>(s.heads * s.head_dim) * static_cast<double>(s.length * s.length);
  }
  void measure(plan::AttentionSample& sample) {
    const auto found =
        timer_.attention_seconds(dtype_, sample.heads, sample.head_dim, sample.length, seconds_each_ / 2);
    sample.forward_seconds = std::min(sample.forward_seconds, found.forward);
    sample.backward_seconds = std::min(sample.backward_seconds, found.backward);
  }

  models::OpTimer& timer_;
  Dtype dtype_;
  double seconds_each_;
  std::vector<plan::AttentionSample> samples_;
};

// Scales numbers in place: every byte that is read is written, and nothing else moves (a copy would also read what it
// is about to overwrite).
BytesPerSecond probe_dram(std::span<std::byte> memory, int threads, double seconds) {
  class Scale : public Load {
   public:
    Scale(std::span<std::byte> memory, int threads) : pool_(threads), memory_(memory) {}
    double work() override {
      const auto elements = static_cast<int64_t>(memory_.size() / 4);
      auto* a = reinterpret_cast<float*>(memory_.data());
      run_on(pool_, elements, 1 << 18, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) a[i] *= 0.999f;
      });
      return static_cast<double>(elements) * 4 * 2;
    }

   private:
    optim::WorkerPool pool_;
    std::span<std::byte> memory_;
  } scale(memory, threads);
  std::fill_n(reinterpret_cast<float*>(memory.data()), memory.size() / 4, 1.0f);
  return {pace_of(scale, seconds)};
}

std::vector<int> thread_counts(int cores) {
  std::vector<int> counts;
  for (int threads = 1; threads < cores; threads *= 2) counts.push_back(threads);
  counts.push_back(cores);
  return counts;
}

class Probe {
 public:
  explicit Probe(const MachineProbeOptions& options)
      : options_(options),
        budget_(budget_of(options.length)),
        slab_(kSlabBytes),
        compute_(options.gpu, compute_memory()) {}

  plan::Machine run() {
    const int cores = usable_cores();
    machine_.cores = cores;
    machine_.name = processor_name() + ", " + std::to_string(cores) + (cores == 1 ? " core" : " cores");
    machine_.host_bytes = Bytes{sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE)};
    if (options_.gpu) {
      machine_.name += ", " + options_.gpu->name();
      machine_.device_bytes = options_.gpu->memory().total;
    }
    for (const Dtype dtype : compute_.dtypes()) {
      products_.try_emplace(dtype, compute_.timer(), dtype, budget_);
      attentions_.try_emplace(dtype, compute_.timer(), dtype, budget_);
    }
    probe_compute();
    probe_memory();
    probe_drives();
    probe_compute();
    for (const auto& [dtype, probe] : products_) machine_.gemm[dtype] = probe.fit();
    for (const auto& [dtype, probe] : attentions_) machine_.attention[dtype] = probe.fit();
    probe_optimizer();
    probe_pairs();
    return std::move(machine_);
  }

 private:
  // Compute, optimizer and drives side by side. Drives alone have all of it.
  static constexpr Bytes kPairDriveBytes = MiB(128);
  static constexpr Bytes kSlabBytes{models::kOpTimerBytes.count + OptimizerLoad::kBytesMost.count +
                                    kPairDriveBytes.count};
  static_assert(kSlabBytes >= kDriveProbeBytes);

  std::span<std::byte> cut(int64_t begin, Bytes bytes) const {
    return slab_.memory().subspan(static_cast<size_t>(begin), static_cast<size_t>(bytes.count));
  }
  std::span<std::byte> compute_memory() const { return cut(0, models::kOpTimerBytes); }
  std::span<std::byte> optimizer_memory() const { return cut(models::kOpTimerBytes.count, OptimizerLoad::kBytesMost); }
  std::span<std::byte> pair_drive_memory() const {
    return cut(models::kOpTimerBytes.count + OptimizerLoad::kBytesMost.count, kPairDriveBytes);
  }

  void probe_compute() {
    for (auto& [dtype, probe] : products_) {
      options_.progress("matrix products, " + std::string(name_of(dtype)));
      probe.measure();
    }
    for (auto& [dtype, probe] : attentions_) {
      options_.progress("attention, " + std::string(name_of(dtype)));
      probe.measure();
    }
  }

  void probe_memory() {
    options_.progress("memory and copies");
    machine_.device_memory = compute_.timer().kernel_rate(budget_.kernels);
    machine_.dram = probe_dram(compute_memory(), machine_.cores, budget_.dram);
    if (options_.gpu) {
      const CopyRates copies = options_.gpu->measure_copies();
      machine_.h2d = copies.h2d, machine_.d2h = copies.d2h, machine_.copies_both = copies.both;
      return;
    }
    CopyLoad up(cut(0, MiB(64))), down(cut(MiB(64).count, MiB(64)));
    machine_.h2d = {pace_of(up, budget_.copies / 4)};
    machine_.d2h = {pace_of(down, budget_.copies / 4)};
    const Paces both = paces_together(up, down, budget_.copies / 2);
    machine_.copies_both = {both.first + both.second};
  }

  void probe_drives() {
    for (const std::filesystem::path& path : options_.nvme_paths) {
      options_.progress("drive " + path.string());
      const swap::DriveKind kind = inspect_drive_for_probe(path, options_.length);
      machine_.drives.push_back({.path = std::filesystem::absolute(path).lexically_normal().string(),
                                 .rates = probe_drive(path, slab_.memory(), options_.length,
                                                      budget_.drives / static_cast<double>(options_.nvme_paths.size())),
                                 .page_cache = kind.page_cache,
                                 .spinning = kind.spinning});
    }
    options_.progress(options_.nvme_paths.size() == 1 ? "the drive, for longer" : "all drives together");
    const plan::DriveRate best = plan::best_rate(machine_.drives.front().rates);
    machine_.all_drives = StripedDrives(options_.nvme_paths, best.request_bytes, best.depth, slab_.memory())
                              .sustained(budget_.all_drives);
  }

  // What a job would compute in: the faster one.
  Dtype compute_dtype() const {
    Dtype best = machine_.gemm.begin()->first;
    for (const auto& [dtype, model] : machine_.gemm)
      if (model.flops_per_second > machine_.gemm.at(best).flops_per_second) best = dtype;
    return best;
  }

  void probe_optimizer() {
    ProductLoad compute(compute_.timer(), compute_dtype());
    for (const int threads : thread_counts(machine_.cores)) {
      options_.progress("optimizer on " + std::to_string(threads) + (threads == 1 ? " thread" : " threads"));
      OptimizerLoad update(threads, optimizer_memory());
      const BytesPerSecond alone{pace_of(update, budget_.optimizer_each / 4)};
      const Paces kept = compute_.is_cpu() ? shares_kept(compute, update, budget_.optimizer_each) : Paces{1, 1};
      machine_.optimizer.push_back({threads, alone, {alone.count * kept.second}, kept.first});
    }
  }

  void probe_pairs() {
    options_.progress("lanes beside each other");
    ProductLoad compute(compute_.timer(), compute_dtype());
    OptimizerLoad update(machine_.cores, optimizer_memory());
    constexpr int64_t kRequest = MiB(4).count;
    StripedDrives drives(options_.nvme_paths, kRequest, 8, pair_drive_memory());
    const std::unique_ptr<DriveLoad> read = drives.load(DriveMode::read), write = drives.load(DriveMode::write);
    const double seconds = budget_.pair_each;
    for (const auto& [lane, load] : {std::pair{Lane::read, read.get()}, std::pair{Lane::write, write.get()}}) {
      if (compute_.is_cpu()) set_beside(Lane::compute, lane, shares_kept(compute, *load, seconds));
      set_beside(Lane::optim, lane, shares_kept(update, *load, seconds));
    }
  }

  void set_beside(Lane first, Lane second, const Paces& kept) {
    machine_.beside[static_cast<size_t>(first)][static_cast<size_t>(second)] = kept.first;
    machine_.beside[static_cast<size_t>(second)][static_cast<size_t>(first)] = kept.second;
  }

  const MachineProbeOptions& options_;
  Budget budget_;
  swap::HostSlab slab_;
  ComputeProbe compute_;
  std::map<Dtype, GemmProbe> products_;
  std::map<Dtype, AttentionProbe> attentions_;
  plan::Machine machine_;
};

}  // namespace

plan::Machine probe_machine(const MachineProbeOptions& options) { return Probe(options).run(); }

}  // namespace sluice::exec
