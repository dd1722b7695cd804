// A program's loss in the words of the models.
#pragma once

#include <sluice/job.h>

#include <exception>

#include "models/program.h"

namespace sluice::embed {

class OwnLoss final : public models::LossFunction {
 public:
  OwnLoss(const Loss& loss, LossPlace place) : loss_(loss), place_(place) {}  // `loss` must outlive it

  double sum(const models::LossChunk& chunk) override;
  bool on_gpu() const override { return place_ == LossPlace::gpu; }
  // What the program's loss threw, which the runtime's lanes know only as an error; null: nothing. No step may run.
  const std::exception_ptr& thrown() const { return thrown_; }

 private:
  const Loss& loss_;
  const LossPlace place_;
  std::exception_ptr thrown_;
};

}  // namespace sluice::embed
