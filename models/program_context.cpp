#include "models/program.h"

namespace sluice::models {

double FixedCost::flops() const {
  double flops = 0;
  for (const Product& product : products)
    flops += 2 * static_cast<double>(product.m) * static_cast<double>(product.n * product.k) * product.count;
  return flops;
}
namespace {

// An exponent of all ones is infinity or NaN.
template <class Word>
bool any_not_finite(const void* elements, int64_t count, Word exponent) {
  const auto* words = static_cast<const Word*>(elements);
  Word bad = 0;
  for (int64_t i = 0; i < count; ++i)
    bad = static_cast<Word>(bad | static_cast<Word>((words[i] & exponent) == exponent));
  return bad != 0;
}

}  // namespace

std::span<OpReport> ProgramContext::reports(size_t count) {
  reports_.assign(count, {});
  return reports_;
}

void ProgramContext::check_finite(const void* elements, int64_t count, Dtype dtype, OpReport& report) const {
  const uint16_t half_exponent = dtype == Dtype::f16 ? 0x7c00 : 0x7f80;
  const bool bad = dtype == Dtype::f32 ? any_not_finite<uint32_t>(elements, count, 0x7f800000u)
                                       : any_not_finite<uint16_t>(elements, count, half_exponent);
  if (bad) report.not_finite = 1;
}

}  // namespace sluice::models
