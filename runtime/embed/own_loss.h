// A program's loss in the words of the models.
#pragma once

#include <sluice/job.h>

#include <exception>

#include "models/program.h"

namespace sluice::embed {

class OwnLoss final : public models::LossFunction {
 public:
  explicit OwnLoss(const Loss& loss) : loss_(loss) {}  // must outlive it

  double sum(const models::LossChunk& chunk) override;
  // What the program's loss threw, which the runtime's lanes know only as an error; null: nothing. No step may run.
  const std::exception_ptr& thrown() const { return thrown_; }

 private:
  const Loss& loss_;
  std::exception_ptr thrown_;
};

}  // namespace sluice::embed
