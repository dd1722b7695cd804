#include "bench/literature/comparison.h"

#include <array>

namespace sluice::literature {
namespace {

constexpr std::array<int64_t, 14> kRows = {1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 48, 64, 96, kStepRowsMax};
// Of a micro-batch of ours in a step of several.
constexpr std::array<int64_t, 4> kMicroRows = {32, 16, 8, 4};

void keep_faster(std::optional<Outcome>& best, const std::optional<Outcome>& tried) {
  if (tried && (!best || tried->tokens_per_second() > best->tokens_per_second())) best = tried;
}

// What does not fit at one batch does not at a larger one.
template <class Step>
std::optional<Outcome> best_of(const Step& step) {
  std::optional<Outcome> best;
  for (const int64_t rows : kRows) {
    const std::optional<Outcome> tried = step(rows);
    if (!tried && best) break;
    keep_faster(best, tried);
  }
  return best;
}

// Of so many sequences a step, whole or in micro-batches.
std::optional<Outcome> sluice_with_rows(const DenseModel& model, int64_t rows, const plan::Machine& machine) {
  std::optional<Outcome> best;
  for (const int micro_batches : {1, 2, 4})
    if (rows % micro_batches == 0) keep_faster(best, sluice_step(model, rows / micro_batches, micro_batches, machine));
  return best;
}

}  // namespace

Comparison compare(const DenseModel& model, const Fuyou& policy, const plan::Machine& machine) {
  Comparison all;
  all.fuyou = best_of([&](int64_t rows) { return fuyou_step(policy, model, rows, machine); });
  all.zero_infinity = best_of([&](int64_t rows) { return zero_infinity_step(model, rows, machine); });
  if (all.fuyou) all.sluice_same_rows = sluice_with_rows(model, all.fuyou->job.rows, machine);
  all.sluice = all.sluice_same_rows;
  for (const int64_t rows : kMicroRows)
    keep_faster(all.sluice, sluice_step(model, rows, static_cast<int>(kStepRowsMax / rows), machine));
  if (!all.sluice) all.sluice = best_of([&](int64_t rows) { return sluice_step(model, rows, 1, machine); });
  return all;
}

}  // namespace sluice::literature
