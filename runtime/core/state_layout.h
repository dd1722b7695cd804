// How the optimizer states of a range of a parameter group lie, in memory as in an extent: the moments m and v in one
// of three formats, then what the fp32 master has beyond the compute weight.
//
//   f32   m, v fp32                                                          8 bytes a parameter
//   bf16  m, v bf16, rounded stochastically                                  4
//   int8  m, v in bitsandbytes' dynamic type, a block of 256 sharing a       2 + 8/256
//         scale; tensors of fewer than 4,096 elements stay fp32 ("exact")
//
// Lion has no v: half of that.
//
// Master: nothing beside fp32 weights; the low half of bf16 ones (core/dtype.h), 2 bytes; a whole fp32 copy of fp16
// ones, 4 bytes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "runtime/core/dtype.h"

namespace sluice {

enum class MomentFormat : uint8_t { f32, bf16, int8 };
std::string_view name_of(MomentFormat format);  // as offload.optimizer_state says it: "fp32", "bf16", "8bit"
std::optional<MomentFormat> moment_format(std::string_view name);

enum class UpdateRule : uint8_t { adamw, lion };
std::string_view name_of(UpdateRule rule);

inline constexpr int64_t kStateBlock = 256;       // elements of int8 moments that share a scale
inline constexpr int64_t kExactElements = 4096;   // tensors with fewer keep fp32 moments
inline constexpr int64_t kStateChunkStep = 4096;  // ranges begin at multiples of this

// The arrays that states consist of, in the order in which they lie.
enum class StatePart : uint8_t { m, v, master, m_scales, v_scales, m_exact, v_exact };
inline constexpr int kStateParts = 7;
std::string_view name_of(StatePart part);  // "exp_avg", ...: in checkpoints

struct ElementRange {
  int64_t begin = 0, end = 0;
  bool operator==(const ElementRange&) const = default;
};

// Where one part of a range lies. `begin`: its first number, counted from the group's.
struct StateSpan {
  Dtype dtype = Dtype::f32;
  int64_t begin = 0, count = 0;
  int64_t offset = 0;  // bytes from the range's states

  int64_t bytes() const { return count * size_of(dtype); }
};
using StateSpans = std::array<StateSpan, kStateParts>;

class StateLayout {
 public:
  // AdamW's, fp32, of bf16 weights.
  StateLayout() = default;
  // Of int8 moments; both ascend. `exact`: the elements that keep fp32 ones, whole blocks. `gaps`: elements that are no
  // parameter's, up to a block's end: they are not updated, as int8 moments of zero beside others do not stay zero.
  StateLayout(MomentFormat moments, Dtype weights, std::vector<ElementRange> exact = {},
              std::vector<ElementRange> gaps = {}, UpdateRule rule = UpdateRule::adamw);

  UpdateRule rule() const { return rule_; }
  MomentFormat moments() const { return moments_; }
  Dtype weights() const { return weights_; }

  // From `element` on as far as all are alike.
  enum class Kind : uint8_t { plain, exact, gap };
  struct Run {
    Kind kind = Kind::plain;
    int64_t end = 0;
  };
  Run run_at(int64_t element, int64_t end) const;

  // [begin, end) of the group, with int8 moments from a block's begin on. A part that is not there has no count.
  StateSpans spans(int64_t begin, int64_t end) const;
  StateSpan span(StatePart part, int64_t begin, int64_t end) const {
    return spans(begin, end)[static_cast<size_t>(part)];
  }
  // Of all parts, a multiple of 64. bytes(a, b) + bytes(b, c) == bytes(a, c) where b is a multiple of kStateChunkStep.
  int64_t bytes(int64_t begin, int64_t end) const;

  bool operator==(const StateLayout&) const = default;

 private:
  int64_t exact_before(int64_t element) const;

  MomentFormat moments_ = MomentFormat::f32;
  Dtype weights_ = Dtype::bf16;
  std::vector<ElementRange> exact_, gaps_;
  UpdateRule rule_ = UpdateRule::adamw;
};

}  // namespace sluice
