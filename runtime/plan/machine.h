// What a machine can do, as `sluice probe` measured it or a file of configs/machine says: the whole machine.yaml.
// Planning takes from it the rates that one job needs (machine_profile.h).
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/dtype.h"
#include "runtime/core/units.h"
#include "runtime/plan/machine_profile.h"

namespace sluice::plan {

// A product [m, k] x [k, n] takes overhead + 2 m n k / (flops_per_second * fill), where
// fill = m / (m + m_half) * n / (n + n_half) * k / (k + k_half).
struct GemmModel {
  double flops_per_second = 0;  // what large products come near
  double m_half = 0, n_half = 0, k_half = 0;
  Microseconds overhead;
  // Relative, on shapes that it was not fitted to; 0 in a file that does not say.
  double error_median = 0, error_worst = 0;
};

// Causal attention over one document of `length` tokens takes overhead + 2 heads * head_dim * length^2 /
// (rate * fill), where fill = length / (length + length_half) * head_dim / (head_dim + head_dim_half):
// 4 * head_dim FLOPs for every pair of positions that sees, forward; 2.5 times that backward.
struct AttentionModel {
  double forward_flops_per_second = 0, backward_flops_per_second = 0;
  double length_half = 0, backward_length_half = 0;
  double head_dim_half = 0;
  Microseconds overhead;
  double error_median = 0, error_worst = 0;
};

struct DriveRate {
  int64_t request_bytes = 0;
  int depth = 0;
  BytesPerSecond read, write;
  BytesPerSecond both;  // read + write together, each way half
};

struct Drive {
  std::string path;
  std::vector<DriveRate> rates;  // by request size and depth
  double rated_tbw = 0;          // terabytes that it is rated to take; 0: unknown
  bool page_cache = false;       // O_DIRECT was refused, or it is memory: the rates are the page cache's
  bool spinning = false;         // says the kernel; virtual disks may say anything
};

struct OptimizerRate {
  int threads = 0;
  BytesPerSecond alone;  // DRAM bytes that AdamW reads and writes
  BytesPerSecond beside_compute;
  double compute_left = 1;  // share of its rate that compute keeps meanwhile
};

struct Machine {
  std::string name;
  std::string fingerprint;  // of the hardware; a probe of another one is stale
  std::string measured;     // when, as 2026-11-23T10:38:34Z; empty in a file that nobody measured
  int cores = 0;
  Bytes host_bytes, device_bytes;  // RAM; VRAM, 0 without a GPU
  std::map<Dtype, GemmModel> gemm;
  std::map<Dtype, AttentionModel> attention;
  BytesPerSecond device_memory;  // what kernels stream through, read + written; DRAM where compute is the CPU's
  BytesPerSecond dram;
  BytesPerSecond h2d, d2h;
  BytesPerSecond copies_both;  // h2d + d2h together
  std::vector<Drive> drives;
  DriveRate all_drives;  // striped, at the best request size and depth
  // What host and chipset let through, however many drives there are; a rate of 0: not known to limit.
  DriveRate drives_at_most;
  std::vector<OptimizerRate> optimizer;  // by ascending number of threads; at least one
  // What else lanes leave of one another (machine_profile.h); pairs that the rates above speak of are ones here.
  LaneMatrix beside = lanes_apart();
};

// FLOPs of attention backward over forward: five products of tiles against two.
inline constexpr double kBackwardWork = 2.5;

Microseconds gemm_time(const GemmModel& model, int64_t m, int64_t n, int64_t k);
Microseconds attention_forward_time(const AttentionModel& model, int64_t heads, int64_t head_dim, int64_t length);
Microseconds attention_backward_time(const AttentionModel& model, int64_t heads, int64_t head_dim, int64_t length);

// The fastest of a drive's rates, reads and writes counting alike; of nearly equal ones the least in flight. At least
// one.
const DriveRate& best_rate(std::span<const DriveRate> rates);
// What drives striped do together when nothing but themselves holds them back: the sum of their best.
DriveRate striped(std::span<const Drive> drives);

// Each rate no higher than the limit's, where that has one.
DriveRate within(DriveRate rate, const DriveRate& limit);

// The same machine with another number of drives, at least 1: the first ones, or more like its last.
Machine with_drives(Machine machine, int count);

// What a job's time is simulated with: all drives striped, the copies, AdamW on that many threads (0: on as many as
// make it fastest; numbers that were not measured are interpolated), and what the lanes leave of one another.
MachineProfile profile_of(const Machine& machine, int optimizer_threads = 0);

}  // namespace sluice::plan
