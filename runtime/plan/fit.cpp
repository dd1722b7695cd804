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

// Gaussian elimination of a small symmetric positive system.
Logs solve(std::vector<Logs> matrix, Logs right) {
  const size_t size = right.size();
  for (size_t pivot = 0; pivot < size; ++pivot)
    for (size_t row = pivot + 1; row < size; ++row) {
      const double factor = matrix[row][pivot] / matrix[pivot][pivot];
      for (size_t column = pivot; column < size; ++column) matrix[row][column] -= factor * matrix[pivot][column];
      right[row] -= factor * right[pivot];
    }
  for (size_t row = size; row-- > 0;) {
    for (size_t column = row + 1; column < size; ++column) right[row] -= matrix[row][column] * right[column];
    right[row] /= matrix[row][row];
  }
  return right;
}

// Levenberg-Marquardt on logarithms of predicted over measured, reweighted so that the sum is nearly of their absolute
// values: one disturbed measurement does not draw the rest.
template <class Residuals>
class Search {
 public:
  Search(const Residuals& residuals, const Ranges& ranges) : residuals_(residuals), ranges_(ranges) {
    for (const Range& range : ranges) at_.push_back(std::log(range.begin));
  }

  Logs least() {
    constexpr int kRounds = 300;
    constexpr double kDampingMax = 1e9;
    double damping = 1e-2, best = loss(at_);
    for (int round = 0; round < kRounds && damping < kDampingMax; ++round) {
      const Logs next = step(damping);
      const double there = loss(next);
      if (there < best) {
        best = there;
        at_ = next;
        damping = std::max(damping / 4, 1e-9);
      } else {
        damping *= 4;
      }
    }
    return at_;
  }

 private:
  static constexpr double kSmooth = 0.02;
  static double size_of_error(double log_ratio) { return std::sqrt(log_ratio * log_ratio + kSmooth * kSmooth); }

  double loss(const Logs& at) const {
    double sum = 0;
    for (const double residual : residuals_(at)) sum += size_of_error(residual);
    return sum;
  }

  Logs step(double damping) const {
    constexpr double kDelta = 1e-4;
    const Logs here = residuals_(at_);
    std::vector<Logs> slopes;  // by parameter
    for (size_t p = 0; p < at_.size(); ++p) {
      Logs near = at_;
      near[p] += kDelta;
      slopes.push_back(residuals_(near));
      for (size_t i = 0; i < here.size(); ++i) slopes[p][i] = (slopes[p][i] - here[i]) / kDelta;
    }
    std::vector<Logs> matrix(at_.size(), Logs(at_.size(), 0));
    Logs right(at_.size(), 0);
    for (size_t p = 0; p < at_.size(); ++p) {
      for (size_t i = 0; i < here.size(); ++i) {
        const double weight = 1 / size_of_error(here[i]);
        right[p] -= weight * slopes[p][i] * here[i];
        for (size_t q = 0; q < at_.size(); ++q) matrix[p][q] += weight * slopes[p][i] * slopes[q][i];
      }
      matrix[p][p] += damping * (matrix[p][p] + 1);
    }
    Logs next = solve(std::move(matrix), std::move(right));
    for (size_t p = 0; p < next.size(); ++p)
      next[p] = std::clamp(at_[p] + next[p], std::log(ranges_[p].least), std::log(ranges_[p].most));
    return next;
  }

  const Residuals& residuals_;
  const Ranges& ranges_;
  Logs at_;
};

template <class Residuals>
Logs least(const Residuals& residuals, const Ranges& ranges) {
  return Search<Residuals>(residuals, ranges).least();
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
          .backward_length_half = std::exp(logs[3]),
          .head_dim_half = std::exp(logs[4]),
          .overhead = {std::exp(logs[5])}};
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
  const auto residuals = [&](const Logs& logs) {
    const GemmModel model = gemm_model(logs);
    Logs all;
    for (size_t i = 0; i < samples.size(); ++i)
      if (!held_out(i))
        all.push_back(log_ratio(gemm_time(model, samples[i].m, samples[i].n, samples[i].k), samples[i].seconds));
    return all;
  };
  GemmModel model =
      gemm_model(least(residuals, {rate_range(rate), kHalfSize, kHalfSize, kHalfSize, overhead_range(shortest)}));
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
  const auto residuals = [&](const Logs& logs) {
    const AttentionModel model = attention_model(logs);
    Logs all;
    for (size_t i = 0; i < samples.size(); ++i) {
      if (held_out(i)) continue;
      all.push_back(log_ratio(forward(model, samples[i]), samples[i].forward_seconds));
      all.push_back(log_ratio(backward(model, samples[i]), samples[i].backward_seconds));
    }
    return all;
  };
  AttentionModel model = attention_model(least(residuals, {rate_range(forward_rate), rate_range(backward_rate),
                                                           kHalfSize, kHalfSize, kHalfSize, overhead_range(shortest)}));
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
