// The executor over a GPU's device, on the fake runtime: the toy's kernels are the host's, and so is the memory.
#include <gtest/gtest.h>

#include "runtime/exec/cuda_device.h"
#include "tests/unit/exec/fake_cuda.h"
#include "tests/unit/exec/toy_run.h"

namespace sluice::exec {
namespace {

using plan::DeviceMemory;
using plan::SlotFate;

const std::vector<ToyJob> kJobs = {
    {"keep", DeviceMemory::separate, Tier::device, Tier::host, Tier::host, SlotFate::keep, 2},
    {"updates", DeviceMemory::separate, Tier::device, Tier::device, Tier::device, SlotFate::keep, 2},
    {"host", DeviceMemory::separate, Tier::host, Tier::host, Tier::host, SlotFate::host, 1},
    {"disk", DeviceMemory::separate, Tier::disk, Tier::disk, Tier::disk, SlotFate::disk, 3},
};

ExecutorOptions on_cuda() {
  ExecutorOptions options{2, {}, {}};
  options.make_device = [](Bytes memory, EventQueue& events, const PhaseClock& clock) -> std::unique_ptr<Device> {
    return make_cuda_device({memory}, events, clock);
  };
  return options;
}

TEST(CudaExecutor, ComputesTheBitsOfTheThreadDevice) {
  for (const ToyJob& job : kJobs) {
    const Outcome expected = Toy(job).train(5), outcome = Toy(job, on_cuda()).train(5);
    EXPECT_EQ(outcome.losses, expected.losses) << job.name;
    EXPECT_EQ(outcome.norms, expected.norms) << job.name;
    EXPECT_EQ(outcome.weights, expected.weights) << job.name;
  }
}

// Wherever the GPU stops, the run ends, with one error.
TEST(CudaExecutor, AGpuThatStopsIsAnErrorThatNamesTheOp) {
  for (const ToyJob& job : kJobs)
    for (const int calls : {10, 11, 50, 51, 52, 200, 333}) {
      Toy toy(job, on_cuda());
      fake_cuda::fail_at(calls);
      try {
        toy.train(5);
        ADD_FAILURE() << job.name << ": the failure of call " << calls << " went unnoticed";
      } catch (const RunError& error) {
        EXPECT_NE(error.error().message.find("of the fake GPU"), std::string::npos) << error.what();
        EXPECT_FALSE(error.error().hint.empty()) << error.what();
      }
      fake_cuda::fail_at(0);
    }
}

}  // namespace
}  // namespace sluice::exec
