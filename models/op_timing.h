// How long this machine takes for the products, attention and row kernels of a block: what a machine's models are
// fitted to. Weights come from memory that the caches do not hold, as in training, where each is used once in a pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "runtime/core/dtype.h"
#include "runtime/core/units.h"

namespace sluice::models {

// Of a linear layer [tokens, in] x [in, out].
enum class Product { forward, input_gradient, weight_gradient };

struct ProductShape {
  Product product = Product::forward;
  int64_t tokens = 0, in = 0, out = 0;

  // As [m, k] x [k, n].
  int64_t m() const { return product == Product::weight_gradient ? out : tokens; }
  int64_t n() const { return product == Product::forward ? out : in; }
  int64_t k() const;
};

class Ops;

// Where ops are timed: a device's arithmetic and memory. What is named must outlive the timer.
struct OpPlace {
  Ops* ops = nullptr;
  std::span<std::byte> memory;  // 64-byte aligned, at least kOpTimerBytes; its content is lost
  std::function<double(const std::function<void()>& op)> seconds_of;          // runs it, and waits until it has ended
  std::function<void(std::byte* to, std::span<const std::byte> from)> write;  // of the host's memory into that
};

struct AttentionSeconds {
  double forward = 0, backward = 0;
};

// Repeats an operation until `seconds` have passed, at least three times, and takes the time that a tenth of them stay
// below: neighbours on the machine only ever add.
class OpTimer {
 public:
  explicit OpTimer(OpPlace place);

  // No operand may have more than kOperandElementsMax elements.
  double product_seconds(Dtype dtype, const ProductShape& shape, double seconds);
  // One document; all heads have keys of their own. heads * head_dim * length: at most kAttentionElementsMax.
  AttentionSeconds attention_seconds(Dtype dtype, int64_t heads, int64_t head_dim, int64_t length, double seconds);
  // Bytes that elementwise and row kernels read and write.
  BytesPerSecond kernel_rate(double seconds);

  // One product on the next weights, without timing; product_seconds of the dtype comes first.
  void run(Dtype dtype, const ProductShape& shape);

 private:
  double quiet_seconds(const std::function<void()>& op, double seconds) const;
  void* weights(Dtype dtype, int64_t elements);
  void prepare(Dtype dtype);
  void fill_with_numbers(std::span<std::byte> memory) const;

  OpPlace place_;
  std::span<std::byte> memory_;
  std::span<std::byte> input_, output_, weights_;
  int64_t next_weight_ = 0;      // bytes
  std::optional<Dtype> filled_;  // all of memory holds numbers of this type
};

inline constexpr int64_t kOperandElementsMax = 4096 * 4096;
inline constexpr int64_t kAttentionElementsMax = 2048 * 2048;
inline constexpr int64_t kAttentionLengthMax = 4096;
inline constexpr Bytes kOpTimerBytes = MiB(320);

// Of LibTorch, whose kernels were timed.
std::string compute_library_version();

}  // namespace sluice::models
