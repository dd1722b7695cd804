#include "runtime/embed/own_loss.h"

#include "runtime/core/result.h"

namespace sluice::embed {

double OwnLoss::sum(const models::LossChunk& chunk) {
  const auto elements = static_cast<size_t>(chunk.rows() * chunk.vocabulary);
  const LossChunk given{static_cast<int64_t>(chunk.batch->step) - 1,
                        static_cast<int64_t>(chunk.batch->index),
                        chunk.rows(),
                        chunk.vocabulary,
                        chunk.batch->token_ids,
                        chunk.positions,
                        chunk.labels,
                        {chunk.logits, elements},
                        chunk.wants_gradient,
                        chunk.gpu,
                        chunk.stream};
  try {
    return loss_(given);
  } catch (...) {
    thrown_ = std::current_exception();
  }
  throw RunError({ErrorCode::invalid_input, "the program's own loss threw", ""});
}

}  // namespace sluice::embed
