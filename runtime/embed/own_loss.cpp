#include "runtime/embed/own_loss.h"

#include "runtime/core/result.h"

namespace sluice::embed {

double OwnLoss::sum(const models::LossChunk& chunk) {
  const auto rows = static_cast<size_t>(chunk.rows);
  const LossChunk given{static_cast<int64_t>(chunk.batch->step) - 1,
                        static_cast<int64_t>(chunk.batch->index),
                        chunk.rows,
                        chunk.vocabulary,
                        chunk.batch->token_ids,
                        {chunk.positions, rows},
                        {chunk.labels, rows},
                        {chunk.logits, rows * static_cast<size_t>(chunk.vocabulary)},
                        chunk.wants_gradient};
  try {
    return loss_(given);
  } catch (...) {
    thrown_ = std::current_exception();
  }
  throw RunError({ErrorCode::invalid_input, "the program's own loss threw", ""});
}

}  // namespace sluice::embed
