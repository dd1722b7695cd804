#include "runtime/plan/fit.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/core/check.h"

namespace sluice::plan {
namespace {

// All parameters are positive, and their effect is a factor: the search is among logarithms.
using Logs = std::vector<double>;
struct Range {
  double least = 0, begin = 0, most = 0;
};
using Ranges = std::vector<Range>;

// A size at which half the rate is reached.
constexpr Range kHalfSize{0.01, 8, 1e4};
// The fastest sample is not much slower than the model's limit, and no sample takes less than the overhead.
Range rate_range(double fastest) { return {fastest / 2, fastest, 2 * fastest}; }
Range overhead_range(double shortest_seconds) {
  const double most = shortest_seconds * 1e6;
  return {1e-4 * most, most / 4, most};
}

bool held_out(size_t index) { return index % 3 == 2; }

// Nearly linear, so that one disturbed measurement does not draw the rest; smooth near zero, so that the search sees
// small gains.
double loss_of(double log_ratio) {
  constexpr double kSmooth = 0.02;
  return std::sqrt(log_ratio * log_ratio + kSmooth * kSmooth);
}

// Pattern search (Hooke & Jeeves 1961): steps along each axis, then along what a round of them came to. `loss` has few
// parameters and is cheap.
template <class Loss>
Logs least(const Loss& loss, const Ranges& ranges) {
  constexpr int kRoundsMax = 3000;
  constexpr double kStepMin = 1e-6;
  Logs at;
  for (const Range& range : ranges) at.push_back(std::log(range.begin));
  Logs steps(at.size(), 0.5);
  double best = loss(at);
  const auto try_one = [&](Logs candidate) {
    for (size_t i = 0; i < candidate.size(); ++i)
      candidate[i] = std::clamp(candidate[i], std::log(ranges[i].least), std::log(ranges[i].most));
    const double value = loss(candidate);
    if (!(value < best)) return false;
    best = value;
    at = candidate;
    return true;
  };
  const auto moving = [&] { return *std::max_element(steps.begin(), steps.end()) > kStepMin; };
  for (int round = 0; round < kRoundsMax && moving(); ++round) {
    const Logs before = at;
    for (size_t i = 0; i < at.size(); ++i) {
      Logs up = at, down = at;
      up[i] += steps[i];
      down[i] -= steps[i];
      const bool better = try_one(up) || try_one(down);
      steps[i] *= better ? 1.4 : 0.5;
    }
    Logs beyond = at;
    for (size_t i = 0; i < at.size(); ++i) beyond[i] += at[i] - before[i];
    try_one(beyond);
  }
  return at;
}

struct Errors {
  double median = 0, worst = 0;
};

Errors errors_of(std::vector<double> errors) {
  std::sort(errors.begin(), errors.end());
  return {errors[errors.size() / 2], errors.back()};
}

double relative(Microseconds predicted, double seconds) { return std::abs(predicted.count / (seconds * 1e6) - 1); }
double log_ratio(Microseconds predicted, double seconds) { return std::log(predicted.count / (seconds * 1e6)); }

GemmModel gemm_model(const Logs& logs) {
  return {.flops_per_second = std::exp(logs[0]),
          .m_half = std::exp(logs[1]),
          .n_half = std::exp(logs[2]),
          .k_half = std::exp(logs[3]),
          .overhead = {std::exp(logs[4])}};
}

AttentionModel attention_model(const Logs& logs) {
  return {.forward_flops_per_second = std::exp(logs[0]),
          .backward_flops_per_second = std::exp(logs[1]),
          .length_half = std::exp(logs[2]),
          .overhead = {std::exp(logs[3])}};
}

double flops_of(const GemmSample& s) {
  return 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
}

double forward_flops_of(const AttentionSample& s) {
  return 2.0 * static_cast<double>(s.heads * s.head_dim) * static_cast<double>(s.length * s.length);
}

}  // namespace

GemmModel fit_gemm(std::span<const GemmSample> samples) {
  SLUICE_CHECK(samples.size() >= kGemmSamplesMin, "too few products to fit a model to");
  double rate = 0, shortest = samples.front().seconds;
  for (const GemmSample& s : samples) {
    SLUICE_CHECK(s.seconds > 0, "a product that took no time");
    rate = std::max(rate, flops_of(s) / s.seconds);
    shortest = std::min(shortest, s.seconds);
  }
  const auto loss = [&](const Logs& logs) {
    const GemmModel model = gemm_model(logs);
    double sum = 0;
    for (size_t i = 0; i < samples.size(); ++i)
      if (!held_out(i))
        sum += loss_of(log_ratio(gemm_time(model, samples[i].m, samples[i].n, samples[i].k), samples[i].seconds));
    return sum;
  };
  GemmModel model =
      gemm_model(least(loss, {rate_range(rate), kHalfSize, kHalfSize, kHalfSize, overhead_range(shortest)}));
  std::vector<double> errors;
  for (size_t i = 0; i < samples.size(); ++i)
    if (held_out(i))
      errors.push_back(relative(gemm_time(model, samples[i].m, samples[i].n, samples[i].k), samples[i].seconds));
  const Errors found = errors_of(std::move(errors));
  model.error_median = found.median;
  model.error_worst = found.worst;
  return model;
}

AttentionModel fit_attention(std::span<const AttentionSample> samples) {
  SLUICE_CHECK(samples.size() >= kAttentionSamplesMin, "too few lengths to fit a model to");
  double forward_rate = 0, backward_rate = 0, shortest = samples.front().forward_seconds;
  for (const AttentionSample& s : samples) {
    SLUICE_CHECK(s.forward_seconds > 0 && s.backward_seconds > 0, "an attention that took no time");
    forward_rate = std::max(forward_rate, forward_flops_of(s) / s.forward_seconds);
    backward_rate = std::max(backward_rate, kBackwardWork * forward_flops_of(s) / s.backward_seconds);
    shortest = std::min(shortest, s.forward_seconds);
  }
  const auto forward = [](const AttentionModel& model, const AttentionSample& s) {
    return attention_forward_time(model, s.heads, s.head_dim, s.length);
  };
  const auto backward = [](const AttentionModel& model, const AttentionSample& s) {
    return attention_backward_time(model, s.heads, s.head_dim, s.length);
  };
  const auto loss = [&](const Logs& logs) {
    const AttentionModel model = attention_model(logs);
    double sum = 0;
    for (size_t i = 0; i < samples.size(); ++i)
      if (!held_out(i))
        sum += loss_of(log_ratio(forward(model, samples[i]), samples[i].forward_seconds)) +
               loss_of(log_ratio(backward(model, samples[i]), samples[i].backward_seconds));
    return sum;
  };
  AttentionModel model = attention_model(
      least(loss, {rate_range(forward_rate), rate_range(backward_rate), kHalfSize, overhead_range(shortest)}));
  std::vector<double> errors;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (!held_out(i)) continue;
    errors.push_back(relative(forward(model, samples[i]), samples[i].forward_seconds));
    errors.push_back(relative(backward(model, samples[i]), samples[i].backward_seconds));
  }
  const Errors found = errors_of(std::move(errors));
  model.error_median = found.median;
  model.error_worst = found.worst;
  return model;
}

}  // namespace sluice::plan
