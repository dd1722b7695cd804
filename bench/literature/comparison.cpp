#include "bench/literature/comparison.h"

#include <array>

namespace sluice::literature {
namespace {

constexpr std::array<int64_t, 15> kPeerRows = {1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 96, kStepRowsMax};
// Of a micro-batch of ours in a step of several, and of a step of one where several do not fit.
constexpr std::array<int64_t, 3> kMicroRows = {8, 16, 32};
constexpr std::array<int64_t, 5> kWholeRows = {16, 32, 40, 48, 56};

void keep_faster(std::optional<Outcome>& best, const std::optional<Outcome>& tried) {
  if (tried && (!best || tried->tokens_per_second() > best->tokens_per_second())) best = tried;
}

// What does not fit at one batch does not at a larger one.
template <class Step>
std::optional<Outcome> best_of(const Step& step) {
  std::optional<Outcome> best;
  for (const int64_t rows : kPeerRows) {
    const std::optional<Outcome> tried = step(rows);
    if (!tried && best) break;
    keep_faster(best, tried);
  }
  return best;
}

}  // namespace

std::optional<Outcome> Comparer::sluice(int64_t rows, int64_t micro_batches, const plan::Machine& machine) {
  if (unfit_.contains({rows, micro_batches})) return std::nullopt;
  std::optional<Outcome> step = sluice_step(model_, rows, static_cast<int>(micro_batches), machine, states_);
  if (!step) unfit_.insert({rows, micro_batches});
  return step;
}

std::optional<Outcome> Comparer::sluice_best(const plan::Machine& machine) {
  std::optional<Outcome> best;
  for (const int64_t rows : kMicroRows) {
    const std::optional<Outcome> tried = sluice(rows, kStepRowsMax / rows, machine);
    // More at once takes more of the device.
    if (!tried) break;
    keep_faster(best, tried);
  }
  if (best) return best;
  for (const int64_t rows : kWholeRows) {
    const std::optional<Outcome> tried = sluice(rows, 1, machine);
    if (!tried && best) break;
    keep_faster(best, tried);
  }
  return best;
}

Comparison Comparer::on(const plan::Machine& machine) {
  Comparison all;
  all.fuyou = best_of([&](int64_t rows) { return fuyou_step(policy_, model_, rows, machine); });
  all.zero_infinity = best_of([&](int64_t rows) { return zero_infinity_step(model_, rows, machine); });
  if (all.fuyou)
    for (const int64_t micro_batches : {1, 2})
      if (all.fuyou->job.rows % micro_batches == 0)
        keep_faster(all.sluice_same_rows, sluice(all.fuyou->job.rows / micro_batches, micro_batches, machine));
  all.sluice = all.sluice_same_rows;
  keep_faster(all.sluice, sluice_best(machine));
  return all;
}

}  // namespace sluice::literature
