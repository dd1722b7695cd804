// What the runtime throws at the program that embeds it. what() is the message that `sluice` prints, and how to mend
// it.
#pragma once

#include <stdexcept>

namespace sluice {

// The job, its data or the call is wrong. Nothing was written, and a Trainer is as it was before the call.
class JobError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A running job failed: the newest checkpoint is intact, and the Trainer is of no use any more.
class TrainingError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace sluice
