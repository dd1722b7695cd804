#include <cstring>
#include <future>
#include <vector>

#include "optim/worker_pool.h"
#include "runtime/exec/group_kernels.h"

namespace sluice::exec {
namespace {

class HostGroupKernels final : public GroupKernels {
 public:
  explicit HostGroupKernels(int threads) : pool_(threads) {}

  void update(const GroupChunk& chunk, const optim::AdamWSettings& settings) override {
    run(chunk.elements, [&](int64_t first, int64_t last) { update_range(chunk, first, last, settings); });
  }
  void squared_norm(const std::byte* gradients, Dtype dtype, int64_t elements, double* runs) override {
    run(elements, [&](int64_t first, int64_t last) {
      runs[first / optim::kNormRunElements] = optim::squared_norm(
          optim::best_isa(), gradient_view(gradients + first * size_of(dtype), dtype, last - first));
    });
  }
  void copy(std::byte* to, const std::byte* from, int64_t bytes) override {
    run(bytes,
        [&](int64_t first, int64_t last) { std::memcpy(to + first, from + first, static_cast<size_t>(last - first)); });
  }
  std::span<double> allocate_sums(int64_t count) override {
    sums_.assign(static_cast<size_t>(count), 0);
    return sums_;
  }

 private:
  template <class Body>
  void run(int64_t count, const Body& body) {
    std::promise<void> ended;
    pool_.submit(count, optim::kNormRunElements, body, [&] { ended.set_value(); });
    ended.get_future().wait();
  }

  optim::WorkerPool pool_;
  std::vector<double> sums_;
};

}  // namespace

std::unique_ptr<GroupKernels> make_host_group_kernels(int threads) {
  return std::make_unique<HostGroupKernels>(threads);
}

}  // namespace sluice::exec
