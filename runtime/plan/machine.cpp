#include "runtime/plan/machine.h"

#include <algorithm>

#include "runtime/core/check.h"

namespace sluice::plan {
namespace {

double saturation(int64_t size, double half) { return static_cast<double>(size) / (static_cast<double>(size) + half); }

double attention_flops(int64_t heads, int64_t head_dim, int64_t length) {
  return 2.0 * static_cast<double>(heads * head_dim) * static_cast<double>(length) * static_cast<double>(length);
}

// Seconds per byte of a job that reads as much as it writes, half of it both ways at once.
double seconds_per_byte(const DriveRate& rate) {
  return 1 / rate.read.count + 1 / rate.write.count + 1 / rate.both.count;
}

BytesPerSecond at_most(BytesPerSecond rate, BytesPerSecond limit) {
  return limit.count > 0 ? std::min(rate, limit) : rate;
}

double between(double a, double b, double share) { return a + (b - a) * share; }

OptimizerRate optimizer_rate(std::span<const OptimizerRate> rates, int threads) {
  SLUICE_CHECK(!rates.empty(), "no optimizer rates");
  const auto slower = [](const OptimizerRate& a, const OptimizerRate& b) { return a.alone < b.alone; };
  if (threads <= 0) return *std::max_element(rates.begin(), rates.end(), slower);
  const auto above =
      std::find_if(rates.begin(), rates.end(), [&](const OptimizerRate& rate) { return rate.threads >= threads; });
  if (above == rates.end()) return rates.back();
  if (above->threads == threads) return *above;
  // Below the first measured number: nothing at no threads.
  const OptimizerRate below = above == rates.begin() ? OptimizerRate{} : *(above - 1);
  const double share = static_cast<double>(threads - below.threads) / (above->threads - below.threads);
  return {threads,
          {between(below.alone.count, above->alone.count, share)},
          {between(below.beside_compute.count, above->beside_compute.count, share)},
          between(below.compute_left, above->compute_left, share)};
}

double share_left(double beside, double alone) { return std::min(1.0, beside / alone); }

}  // namespace

Microseconds gemm_time(const GemmModel& model, int64_t m, int64_t n, int64_t k) {
  const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  const double fill = saturation(m, model.m_half) * saturation(n, model.n_half) * saturation(k, model.k_half);
  return model.overhead + Microseconds{flops / (model.flops_per_second * fill) * 1e6};
}

Microseconds attention_forward_time(const AttentionModel& model, int64_t heads, int64_t head_dim, int64_t length) {
  const double fill = saturation(length, model.length_half) * saturation(head_dim, model.head_dim_half);
  const double seconds = attention_flops(heads, head_dim, length) / (model.forward_flops_per_second * fill);
  return model.overhead + Microseconds{seconds * 1e6};
}

Microseconds attention_backward_time(const AttentionModel& model, int64_t heads, int64_t head_dim, int64_t length) {
  const double fill = saturation(length, model.backward_length_half) * saturation(head_dim, model.head_dim_half);
  const double flops = kBackwardWork * attention_flops(heads, head_dim, length);
  return model.overhead + Microseconds{flops / (model.backward_flops_per_second * fill) * 1e6};
}

const DriveRate& best_rate(std::span<const DriveRate> rates) {
  SLUICE_CHECK(!rates.empty(), "a drive without rates");
  constexpr double kNearly = 1.03;  // measurements differ by as much
  double fastest = seconds_per_byte(rates.front());
  for (const DriveRate& rate : rates) fastest = std::min(fastest, seconds_per_byte(rate));
  const DriveRate* best = nullptr;
  for (const DriveRate& rate : rates) {
    if (seconds_per_byte(rate) > kNearly * fastest) continue;
    if (best == nullptr || rate.request_bytes * rate.depth < best->request_bytes * best->depth) best = &rate;
  }
  return *best;
}

DriveRate striped(std::span<const Drive> drives) {
  SLUICE_CHECK(!drives.empty(), "no drives");
  const DriveRate& first = best_rate(drives.front().rates);
  DriveRate sum{first.request_bytes, first.depth, {}, {}, {}};
  for (const Drive& drive : drives) {
    const DriveRate& rate = best_rate(drive.rates);
    sum.read.count += rate.read.count;
    sum.write.count += rate.write.count;
    sum.both.count += rate.both.count;
  }
  return sum;
}

DriveRate within(DriveRate rate, const DriveRate& limit) {
  rate.read = at_most(rate.read, limit.read);
  rate.write = at_most(rate.write, limit.write);
  rate.both = at_most(rate.both, limit.both);
  return rate;
}

Machine with_drives(Machine machine, int count) {
  SLUICE_CHECK(count >= 1, "a machine without a drive");
  if (count == static_cast<int>(machine.drives.size())) return machine;
  const Drive last = machine.drives.back();
  machine.drives.resize(static_cast<size_t>(count), last);
  machine.all_drives = within(striped(machine.drives), machine.drives_at_most);
  return machine;
}

MachineProfile profile_of(const Machine& machine, int optimizer_threads) {
  const OptimizerRate update = optimizer_rate(machine.optimizer, optimizer_threads);
  MachineProfile profile{machine.h2d,  machine.d2h,   machine.all_drives.read, machine.all_drives.write,
                         update.alone, machine.beside};
  share_drive(profile, machine.all_drives.both);
  const auto beside = [&](Lane lane, Lane other) -> double& {
    return profile.beside[static_cast<size_t>(lane)][static_cast<size_t>(other)];
  };
  beside(Lane::h2d, Lane::d2h) = share_left(machine.copies_both.count / 2, machine.h2d.count);
  beside(Lane::d2h, Lane::h2d) = share_left(machine.copies_both.count / 2, machine.d2h.count);
  beside(Lane::optim, Lane::compute) = share_left(update.beside_compute.count, update.alone.count);
  beside(Lane::compute, Lane::optim) = update.compute_left;
  return profile;
}

}  // namespace sluice::plan
