// A small decoder in numbers: a tied embedding, a few layers, a head. For tests of planning.
#pragma once

#include "runtime/plan/planner.h"

namespace sluice::plan {

inline JobShape toy_job(int micro_batches, bool adapter = false, int layers = 3) {
  JobShape job;
  job.tokens_max = 64;
  job.micro_batches = micro_batches;
  job.boundary_bytes = Bytes{64 * 32 * 2};
  job.gradient_bytes_per_element = micro_batches == 1 ? 2 : 4;
  const auto add_group = [&](const char* name, int64_t elements, bool trainable) {
    job.groups.push_back({name, trainable, elements, 2, StateLayout(), Bytes{elements * 2 + 8192}});
    return static_cast<int>(job.groups.size()) - 1;
  };
  const auto scratch = [](ComputePass pass, std::span<const uint8_t>) {
    return Bytes{pass == ComputePass::forward ? 20000 : 50000};
  };
  const int embedding = add_group("embedding", 20000, !adapter);
  job.blocks.push_back({"embedding", {embedding}, {}, 1e6, 1e6, scratch});
  for (int layer = 0; layer < layers; ++layer) {
    BlockShape block{"layer." + std::to_string(layer), {add_group("layer", 9000, !adapter)}, {}, 2e9, 4e9, scratch};
    if (adapter) block.groups.push_back(add_group("adapter", 640, true));
    block.slots = {{"attention_output", Bytes{4096}, 1e8}, {"mlp_gate_up", Bytes{16384}, 5e8}};
    job.blocks.push_back(std::move(block));
  }
  job.blocks.push_back({"head", {embedding, add_group("head", 32, !adapter)}, {}, 1e9, 2e9, scratch});
  // At 1e11 FLOP/s.
  for (BlockShape& block : job.blocks) {
    block.forward_time = {block.forward_flops / 1e5};
    block.backward_time = {
        (&block == &job.blocks.back() ? block.forward_flops + block.backward_flops : block.backward_flops) / 1e5};
    for (SlotShape& slot : block.slots) slot.recompute_time = {slot.recompute_flops / 1e5};
  }
  return job;
}

inline PlanRequest toy_request(const JobShape& job) {
  PlanRequest request;
  request.caps = {GiB(1), GiB(1), GiB(1)};
  request.update = UpdateTime::before_forward;
  request.profile = {{1e9}, {1e9}, {1e8}, {1e8}, {1e10}};
  request.source_low_bits.assign(job.groups.size(), 0);
  return request;
}

}  // namespace sluice::plan
