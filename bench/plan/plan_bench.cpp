// plan_bench [--benchmark_filter=...]: how long planning takes, from a job's numbers to lowered and proved schedules.
//
// 100 layers of hidden size 12,288 (180B parameters), sequence 1024, on an RTX 4090 with 24 GB, 128 GB of RAM and one
// drive; and the same with device and host memory one ("unified"). `step_s` is the step time that the plan found.
#include <benchmark/benchmark.h>

#include <string>

#include "bench/literature/dense_shape.h"
#include "runtime/plan/planner.h"
#include "runtime/train/machine_file.h"

namespace sluice {
namespace {

enum Method { full, lora };
enum Memory { separate, unified };

plan::Machine machine() {
  return train::read_machine(std::string(SLUICE_SOURCE_DIR) + "/configs/machine/rtx4090_desktop.yaml");
}

// Everything frozen, and beside each layer an adapter of rank 16 or so.
void adapt(plan::JobShape& shape) {
  for (plan::GroupShape& group : shape.groups) group.trainable = false;
  for (plan::BlockShape& block : shape.blocks) {
    if (!block.name.starts_with("layer.")) continue;
    plan::GroupShape adapter = shape.groups[static_cast<size_t>(block.groups.front())];
    adapter.name += ".adapter";
    adapter.trainable = true;
    adapter.elements /= 1000;
    block.groups.push_back(static_cast<int>(shape.groups.size()));
    shape.groups.push_back(adapter);
  }
}

void planning(benchmark::State& state, Method method, Memory memory, int micro_batches) {
  literature::DenseJob job{{"180B", 100, 12288, 96}};
  job.rows = 4;
  job.micro_batches = micro_batches;
  const plan::Machine target = machine();
  plan::JobShape shape = literature::dense_shape(job, target);
  if (method == lora) adapt(shape);
  plan::PlanRequest request;
  request.memory = memory == unified ? plan::DeviceMemory::unified : plan::DeviceMemory::separate;
  request.caps = {memory == unified ? GiB(0) : target.device_bytes, target.host_bytes, GiB(1 << 20)};
  request.source_low_bits.assign(shape.groups.size(), 0);
  request.clips = true;
  request.chunk_elements = 1 << 26;
  request.profile = plan::profile_of(target);
  for (auto _ : state) {
    const plan::Planned planned = plan::make_plan(shape, request);
    state.counters["step_s"] = planned.steady.time.count / 1e6;
  }
}

BENCHMARK_CAPTURE(planning, full_separate, full, separate, 1)->Unit(benchmark::kSecond)->Iterations(1)->UseRealTime();
BENCHMARK_CAPTURE(planning, full_unified, full, unified, 1)->Unit(benchmark::kSecond)->Iterations(1)->UseRealTime();
BENCHMARK_CAPTURE(planning, full_separate_8, full, separate, 8)->Unit(benchmark::kSecond)->Iterations(1)->UseRealTime();
BENCHMARK_CAPTURE(planning, lora_separate, lora, separate, 1)->Unit(benchmark::kSecond)->Iterations(1)->UseRealTime();
BENCHMARK_CAPTURE(planning, lora_unified, lora, unified, 1)->Unit(benchmark::kSecond)->Iterations(1)->UseRealTime();

}  // namespace
}  // namespace sluice
