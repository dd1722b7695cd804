// A backend that misbehaves as drives and kernels do, by a seed. For tests.
#pragma once

#include <chrono>
#include <limits>
#include <memory>

#include "swap/io_backend.h"

namespace sluice::swap {

struct Faults {
  uint64_t seed = 1;
  double short_transfers = 0;  // share of requests that move only a part
  double interrupted = 0;      // share that ends with EINTR, nothing moved
  double try_again = 0;        // share that ends with EAGAIN, nothing moved
  int64_t fail_at = -1;        // the request of that number (from 0) ends with `fail_errno`, and those after it
  int fail_errno = 5;
  int64_t fail_requests = std::numeric_limits<int64_t>::max();  // so many of them
  int64_t flip_bit_at = -1;                                     // the read of that number delivers one wrong bit
  int64_t delay_at = -1;                                        // the request of that number is answered late
  std::chrono::milliseconds delay{0};
  int room = 0;  // takes at most this many requests at a time; 0: the inner backend's
};

std::unique_ptr<IoBackend> make_faulty_backend(std::unique_ptr<IoBackend> inner, const Faults& faults);

}  // namespace sluice::swap
