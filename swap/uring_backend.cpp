#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "swap/io_backend.h"

namespace sluice::swap {
namespace {

constexpr uint64_t kWakeUser = ~uint64_t{0}, kNobody = kWakeUser - 1;
// The kernel registers at most 1 GiB per buffer.
constexpr size_t kRegisteredPieceBytes = size_t{1} << 30;
constexpr std::chrono::milliseconds kRefusalPause{1};

class UringBackend final : public IoBackend {
 public:
  UringBackend(const io_uring& ring, int depth, std::chrono::milliseconds patience)
      : ring_(ring), depth_(depth), wake_fd_(eventfd(0, EFD_CLOEXEC)), refusals_max_(patience / kRefusalPause) {
    listen_for_wake();
  }
  ~UringBackend() override {
    io_uring_queue_exit(&ring_);
    close(wake_fd_);
  }

  size_t submit(std::span<const IoRequest> requests) override {
    flush();  // nothing, unless the kernel refused what is there
    size_t taken = 0;
    for (; taken < requests.size() && in_flight_ < depth_; ++taken) {
      if (io_uring_sqe* sqe = io_uring_get_sqe(&ring_); sqe != nullptr) {
        prepare(sqe, requests[taken]);
        ++in_flight_;
      } else if (given_up_) {
        refused_.push_back({requests[taken].user, -ENOMEM});
      } else {
        break;
      }
    }
    if (taken > 0) flush();
    return taken;
  }

  std::vector<IoOutcome> reap() override {
    std::vector<IoOutcome> outcomes = std::exchange(refused_, {});
    bool woken = false;
    if (!listens_ && in_flight_ == 0 && outcomes.empty()) {
      wait_for_wake();
      woken = true;
    }
    while (outcomes.empty() && !woken) {
      io_uring_cqe* cqe = nullptr;
      const int waited = io_uring_wait_cqe(&ring_, &cqe);
      if (waited < 0 && waited != -EINTR && waited != -EAGAIN)
        SLUICE_CHECK(false, std::string("io_uring_wait_cqe: ") + std::strerror(-waited));
      while (io_uring_peek_cqe(&ring_, &cqe) == 0 && cqe != nullptr) {
        const IoOutcome outcome{cqe->user_data, cqe->res};
        io_uring_cqe_seen(&ring_, cqe);
        cqe = nullptr;
        if (outcome.user == kWakeUser) {
          woken = true;
          listens_ = false;
        } else if (outcome.user != kNobody) {
          --in_flight_;
          outcomes.push_back(outcome);
        }
      }
    }
    if (!listens_) listen_for_wake();
    return outcomes;
  }

  void wake() override {
    const uint64_t one = 1;
    ssize_t written;
    do written = write(wake_fd_, &one, sizeof one);
    while (written < 0 && errno == EINTR);
  }

  Result<void> register_memory(std::span<std::byte> memory) override {
    std::vector<iovec> pieces;
    for (size_t at = 0; at < memory.size(); at += kRegisteredPieceBytes)
      pieces.push_back({memory.data() + at, std::min(kRegisteredPieceBytes, memory.size() - at)});
    if (!registered_.empty()) return Error{ErrorCode::unsupported, "memory is registered once", ""};
    const int refused = io_uring_register_buffers(&ring_, pieces.data(), static_cast<unsigned>(pieces.size()));
    if (refused < 0) return Error{ErrorCode::capacity, std::strerror(-refused), ""};
    registered_ = std::move(pieces);
    return {};
  }

 private:
  void prepare(io_uring_sqe* sqe, const IoRequest& request) {
    const auto length = static_cast<unsigned>(request.bytes);
    const auto offset = static_cast<uint64_t>(request.offset);
    const int buffer = registered_buffer(request);
    if (request.direction == Direction::read) {
      buffer >= 0 ? io_uring_prep_read_fixed(sqe, request.fd, request.memory, length, offset, buffer)
                  : io_uring_prep_read(sqe, request.fd, request.memory, length, offset);
    } else {
      buffer >= 0 ? io_uring_prep_write_fixed(sqe, request.fd, request.memory, length, offset, buffer)
                  : io_uring_prep_write(sqe, request.fd, request.memory, length, offset);
    }
    io_uring_sqe_set_data64(sqe, request.user);
  }
  int registered_buffer(const IoRequest& request) const {
    for (size_t i = 0; i < registered_.size(); ++i) {
      const auto* begin = static_cast<const std::byte*>(registered_[i].iov_base);
      if (request.memory >= begin && request.memory + request.bytes <= begin + registered_[i].iov_len)
        return static_cast<int>(i);
    }
    return -1;
  }
  void listen_for_wake() {
    flush();
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) return;  // full of what the kernel refuses
    io_uring_prep_read(sqe, wake_fd_, &wake_count_, sizeof wake_count_, 0);
    io_uring_sqe_set_data64(sqe, kWakeUser);
    listens_ = true;
    flush();
  }
  // Without the ring.
  void wait_for_wake() {
    ssize_t got;
    do got = read(wake_fd_, &wake_count_, sizeof wake_count_);
    while (got < 0 && errno == EINTR);
  }
  // Without memory for requests the kernel takes a part of them, or none for the moment. What stayed in the ring would
  // be waited for in vain.
  void flush() {
    for (int64_t refusals = 0; io_uring_sq_ready(&ring_) > 0;) {
      const int taken = io_uring_submit(&ring_);
      if (taken > 0) {
        refusals = 0;
        given_up_ = false;
        continue;
      }
      const bool passes = taken == 0 || taken == -EINTR || taken == -EAGAIN || taken == -EBUSY;
      if (!passes || given_up_ || ++refusals >= refusals_max_) return give_up(passes ? -ENOMEM : taken);
      std::this_thread::sleep_for(kRefusalPause);
    }
  }
  // What the kernel has not taken ends with that error, as if it had taken it. The places stay in the ring until it
  // does.
  void give_up(int error) {
    given_up_ = true;
    for (unsigned left = io_uring_sq_ready(&ring_); left > 0; --left) {
      io_uring_sqe* sqe = &ring_.sq.sqes[(ring_.sq.sqe_tail - left) & *ring_.sq.kring_mask];
      const uint64_t user = sqe->user_data;
      io_uring_prep_nop(sqe);
      io_uring_sqe_set_data64(sqe, kNobody);
      if (user == kWakeUser) listens_ = false;
      if (user == kWakeUser || user == kNobody) continue;
      --in_flight_;
      refused_.push_back({user, error});
    }
  }

  io_uring ring_;
  int depth_;
  int in_flight_ = 0;
  int wake_fd_;
  uint64_t wake_count_ = 0;
  bool listens_ = false;
  int64_t refusals_max_;            // in a row
  bool given_up_ = false;           // nothing was taken since
  std::vector<IoOutcome> refused_;  // not reaped yet
  std::vector<iovec> registered_;
};

}  // namespace

Result<std::unique_ptr<IoBackend>> make_uring_backend(int depth, std::chrono::milliseconds patience) {
  io_uring ring{};
  // One more place than requests, for waking.
  const int refused = io_uring_queue_init(static_cast<unsigned>(depth) + 1, &ring, 0);
  if (refused < 0)
    return Error{ErrorCode::unsupported, std::string("io_uring is refused: ") + std::strerror(-refused),
                 // ENOMEM: its rings count against RLIMIT_MEMLOCK.
                 refused == -ENOMEM ? "raise `ulimit -l` or set offload.io_backend: thread"
                                    : "allow it (container seccomp profile, sysctl kernel.io_uring_disabled=0) or set "
                                      "offload.io_backend: thread"};
  return std::unique_ptr<IoBackend>(std::make_unique<UringBackend>(ring, depth, patience));
}

}  // namespace sluice::swap
