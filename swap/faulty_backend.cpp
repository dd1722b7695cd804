#include "swap/faulty_backend.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <map>
#include <optional>
#include <random>
#include <thread>

#include "runtime/core/units.h"

namespace sluice::swap {
namespace {

class FaultyBackend final : public IoBackend {
 public:
  FaultyBackend(std::unique_ptr<IoBackend> inner, const Faults& faults)
      : inner_(std::move(inner)), faults_(faults), random_(faults.seed) {}

  size_t submit(std::span<const IoRequest> requests) override {
    size_t taken = 0;
    for (; taken < requests.size(); ++taken) {
      if (faults_.room > 0 && in_flight_ >= faults_.room) break;
      if (!submit_one(requests[taken])) break;
      ++in_flight_;
    }
    return taken;
  }

  std::vector<IoOutcome> reap() override {
    std::vector<IoOutcome> outcomes = std::exchange(made_up_, {});
    if (outcomes.empty()) outcomes = hold_back(inner_->reap());
    for (const IoOutcome& outcome : outcomes) {
      --in_flight_;
      if (const auto flip = flips_.find(outcome.user); flip != flips_.end() && outcome.result > 0) {
        flip->second[outcome.result / 2] ^= std::byte{0x10};
        flips_.erase(flip);
      }
    }
    return outcomes;
  }

  void wake() override { inner_->wake(); }
  Result<void> register_memory(std::span<std::byte> memory) override { return inner_->register_memory(memory); }

 private:
  // The late request's answer is kept until its time has come; then reap() is woken for it.
  std::vector<IoOutcome> hold_back(std::vector<IoOutcome> outcomes) {
    const auto held = std::find_if(outcomes.begin(), outcomes.end(),
                                   [this](const IoOutcome& outcome) { return late_ == outcome.user; });
    if (held != outcomes.end()) {
      late_.reset();
      held_ = *held;
      outcomes.erase(held);
      alarm_ = std::jthread([this] {
        std::this_thread::sleep_for(faults_.delay);
        due_ = true;
        inner_->wake();
      });
    }
    if (due_.exchange(false)) outcomes.push_back(held_);
    return outcomes;
  }

  bool chance(double share) { return std::uniform_real_distribution<>(0, 1)(random_) < share; }

  bool submit_one(IoRequest request) {
    const int64_t number = requests_;
    int64_t made_up = 0;
    if (faults_.fail_at >= 0 && number >= faults_.fail_at && number - faults_.fail_at < faults_.fail_requests) {
      made_up = -faults_.fail_errno;
    } else if (chance(faults_.interrupted)) {
      made_up = -EINTR;
    } else if (chance(faults_.try_again)) {
      made_up = -EAGAIN;
    } else if (request.bytes > 4096 && chance(faults_.short_transfers)) {
      request.bytes = std::max<int64_t>(4096, round_down(request.bytes / 3, 4096));
    }
    if (made_up != 0) {
      made_up_.push_back({request.user, made_up});
    } else {
      if (inner_->submit({&request, 1}) == 0) return false;
      if (number == faults_.delay_at) late_ = request.user;
      if (request.direction == Direction::read && reads_++ == faults_.flip_bit_at)
        flips_[request.user] = request.memory;
    }
    ++requests_;
    return true;
  }

  std::unique_ptr<IoBackend> inner_;
  Faults faults_;
  std::mt19937_64 random_;
  std::vector<IoOutcome> made_up_;
  std::map<uint64_t, std::byte*> flips_;
  int64_t requests_ = 0, reads_ = 0;
  int in_flight_ = 0;
  std::optional<uint64_t> late_;
  IoOutcome held_;
  std::atomic<bool> due_ = false;
  std::jthread alarm_;  // ends before what it wakes
};

}  // namespace

std::unique_ptr<IoBackend> make_faulty_backend(std::unique_ptr<IoBackend> inner, const Faults& faults) {
  return std::make_unique<FaultyBackend>(std::move(inner), faults);
}

}  // namespace sluice::swap
