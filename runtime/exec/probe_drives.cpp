#include "runtime/exec/probe_drives.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "runtime/core/result.h"

namespace sluice::exec {
namespace {

using Clock = std::chrono::steady_clock;

// Extents of one size, of a drive's swap file.
struct Region {
  int64_t request_bytes;
  int64_t extents;
};
// Twice the depth at least: a request never waits for the one before it on the same extent.
std::vector<Region> regions(ProbeLength length) {
  if (length == ProbeLength::quick) return {{MiB(4).count, 32}};
  return {{MiB(1).count, 128}, {MiB(4).count, 64}, {MiB(16).count, 64}};
}
std::vector<int> depths(ProbeLength length) {
  return length == ProbeLength::quick ? std::vector{4, 16} : std::vector{4, 16, 32};
}

int64_t probe_bytes(ProbeLength length) {
  int64_t bytes = 0;
  for (const Region& region : regions(length)) bytes += region.request_bytes * region.extents;
  return bytes;
}

void check_space(const std::filesystem::path& folder, Bytes free, ProbeLength length) {
  const Bytes needed{probe_bytes(length)};
  if (free < needed)
    throw SetupError({ErrorCode::no_space,
                      folder.string() + " has " + to_string(free) + " free; the probe needs " + to_string(needed) +
                          " there for a minute",
                      "free space there, or give --nvme a folder on another drive"});
}

double seconds_for(double bytes, BytesPerSecond rate) { return bytes / rate.count; }

swap::SwapOptions engine_options(const std::vector<std::filesystem::path>& folders, int64_t request_bytes, int depth) {
  swap::SwapOptions options;
  options.nvme_paths = folders;
  options.request_bytes = Bytes{request_bytes};
  options.stripe_bytes = Bytes{request_bytes};
  options.queue_depth = depth;
  return options;
}

BytesPerSecond& rate_of(plan::DriveRate& rate, DriveMode mode) {
  return mode == DriveMode::read ? rate.read : mode == DriveMode::write ? rate.write : rate.both;
}

// A drive may shortcut zeros, or one page over and over.
void fill_with_noise(std::span<std::byte> memory) {
  uint64_t state = 88172645463325252u;  // xorshift64 (Marsaglia 2003)
  for (size_t at = 0; at + 8 <= memory.size(); at += 8) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    std::memcpy(memory.data() + at, &state, 8);
  }
}

constexpr std::array kModes = {DriveMode::read, DriveMode::write, DriveMode::both};

}  // namespace

swap::DriveKind inspect_drive_for_probe(const std::filesystem::path& folder, ProbeLength length) {
  swap::DriveKind kind = swap::inspect_drive(folder);
  check_space(folder, kind.free, length);
  return kind;
}

std::vector<plan::DriveRate> probe_drive(const std::filesystem::path& folder, std::span<std::byte> memory,
                                         ProbeLength length, double seconds) {
  memory = memory.first(static_cast<size_t>(kDriveProbeBytes.count));
  fill_with_noise(memory.first(MiB(64).count));
  const auto start = Clock::now();
  const std::vector<Region> sizes = regions(length);
  swap::SwapEngine engine(engine_options({folder}, sizes.back().request_bytes, depths(length).back()));
  engine.register_memory(memory);
  // Files that were never written may be slow to write for the first time; states are rewritten every step.
  std::vector<std::vector<swap::ExtentId>> extents;
  int64_t written = 0;
  for (const Region& region : sizes) {
    extents.push_back(make_extents(engine, memory, region.request_bytes, region.extents));
    written += region.request_bytes * region.extents;
  }
  const auto spent = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const BytesPerSecond about{static_cast<double>(written) / spent()};
  std::vector<plan::DriveRate> rates;
  const double each =
      std::max(0.05, (seconds - spent()) / static_cast<double>(sizes.size() * depths(length).size() * kModes.size()));
  for (size_t size = 0; size < sizes.size(); ++size)
    for (const int depth : depths(length)) {
      plan::DriveRate rate{sizes[size].request_bytes, depth, {}, {}, {}};
      // A slow drive would still be at the first queueful when the time is over.
      const double queueful = seconds_for(static_cast<double>(rate.request_bytes) * depth, about);
      if (!rates.empty() && queueful > 2 * each) continue;
      for (const DriveMode mode : kModes) {
        DriveLoad load(engine, memory, {extents[size], rate.request_bytes, depth, mode});
        rate_of(rate, mode) = {pace_of(load, std::max(each - queueful, queueful))};
      }
      rates.push_back(rate);
    }
  return rates;
}

StripedDrives::StripedDrives(const std::vector<std::filesystem::path>& folders, int64_t request_bytes,
                             int depth_per_drive, std::span<std::byte> memory)
    : engine_(engine_options(folders, request_bytes, depth_per_drive)),
      request_bytes_(request_bytes),
      depth_(depth_per_drive),
      drives_(static_cast<int>(folders.size())) {
  const auto room = static_cast<int64_t>(memory.size()) / request_bytes;
  depth_ = static_cast<int>(std::clamp<int64_t>(room / drives_, 1, depth_));
  memory_ = memory.first(static_cast<size_t>(request_bytes * depth_ * drives_));
  fill_with_noise(memory_);
  engine_.register_memory(memory_);
  extents_ = make_extents(engine_, memory_, request_bytes, int64_t{2} * depth_ * drives_);
}

std::unique_ptr<DriveLoad> StripedDrives::load(DriveMode mode) {
  return std::make_unique<DriveLoad>(engine_, memory_,
                                     DriveLoad::Options{extents_, request_bytes_, depth_ * drives_, mode});
}

plan::DriveRate StripedDrives::sustained(double seconds) {
  plan::DriveRate rate{request_bytes_, depth_, {}, {}, {}};
  // In two rounds: what a drive gives may depend on what it gave before.
  constexpr int kRounds = 2;
  for (int round = 0; round < kRounds; ++round)
    for (const DriveMode mode : kModes)
      rate_of(rate, mode).count += pace_of(*load(mode), seconds / (kRounds * kModes.size())) / kRounds;
  return rate;
}

}  // namespace sluice::exec
