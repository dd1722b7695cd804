// Random small jobs and machines on which a plan can be compared with all others. For tests of planning.
#pragma once

#include <random>

#include "runtime/plan/planner.h"

namespace sluice::plan {

class RandomJobs {
 public:
  explicit RandomJobs(uint64_t seed) : random_(seed) {}

  // 3 to 6 blocks, of one or of several sizes, full or with adapters.
  JobShape shape() {
    JobShape job;
    job.tokens_max = 64;
    job.micro_batches = pick({1, 1, 2, 3});
    job.boundary_bytes = Bytes{between(20'000, 200'000)};
    const bool adapter = coin(), alike = coin();
    const auto add_group = [&](int64_t elements, bool trainable) {
      job.groups.push_back({"group", trainable, elements, 2, StateLayout(), Bytes{elements * 2 + 8192}});
      return static_cast<int>(job.groups.size()) - 1;
    };
    const Bytes scratch{between(20'000, 100'000)};
    const auto workspace = [scratch](ComputePass, std::span<const uint8_t>) { return scratch; };
    const auto add_block = [&](std::vector<int> groups, double forward) {
      BlockShape block{"block", std::move(groups), {}, forward * 1e3, forward * 2e3, workspace};
      block.forward_time = {forward};
      block.backward_time = {2 * forward};
      job.blocks.push_back(std::move(block));
    };
    const int embedding = add_group(between(100'000, 400'000), !adapter);
    add_block({embedding}, 10);
    const int layers = pick({1, 2, 2, 3, 4});
    const int64_t elements = between(100'000, 500'000);
    const double forward = static_cast<double>(between(200, 5000));
    const int64_t slot = between(20'000, 400'000);
    for (int layer = 0; layer < layers; ++layer) {
      const double scale = alike ? 1 : 0.5 + static_cast<double>(between(0, 100)) / 100;
      std::vector<int> groups = {add_group(scaled(elements, scale), !adapter)};
      if (adapter) groups.push_back(add_group(8192, true));
      add_block(std::move(groups), forward * scale);
      job.blocks.back().slots = {{"slot", Bytes{scaled(slot, scale)}, 1e6, {forward * scale * 0.7}}};
    }
    add_block({embedding, add_group(4096, !adapter)}, forward);
    job.device_memory_rate = {static_cast<double>(between(10, 1000)) * 1e9};
    return job;
  }

  MachineProfile machine() {
    const auto rate = [&](double least, double most) {
      return BytesPerSecond{least * std::pow(most / least, static_cast<double>(between(0, 1000)) / 1000)};
    };
    MachineProfile profile{rate(1e8, 1e10), rate(1e8, 1e10), rate(3e7, 3e9), rate(3e7, 3e9), rate(1e9, 3e10)};
    share_drive(profile, {std::max(profile.disk_read.count, profile.disk_write.count)});
    if (coin()) {
      const auto set = [&](Lane a, Lane b, double share) {
        profile.beside[static_cast<size_t>(a)][static_cast<size_t>(b)] = share;
      };
      set(Lane::compute, Lane::optim, 0.4);
      set(Lane::optim, Lane::compute, 0.6);
    }
    return profile;
  }

  int64_t between(int64_t least, int64_t most) { return std::uniform_int_distribution(least, most)(random_); }
  bool coin() { return between(0, 1) == 1; }
  int pick(std::initializer_list<int> of) { return *(of.begin() + between(0, static_cast<int64_t>(of.size()) - 1)); }

 private:
  static int64_t scaled(int64_t value, double by) {
    return static_cast<int64_t>(static_cast<double>(value) * by) / 64 * 64;
  }
  std::mt19937_64 random_;
};

}  // namespace sluice::plan
