#include "runtime/exec/group_chunk.h"

#include <algorithm>

namespace sluice::exec {
namespace {

template <class T = void>
T* place(const GroupChunk& chunk, const StateSpans& spans, StatePart part, int64_t number) {
  const StateSpan& span = spans[static_cast<size_t>(part)];
  if (span.count == 0) return nullptr;
  return reinterpret_cast<T*>(chunk.states + span.offset + (number - span.begin) * size_of(span.dtype));
}

// Elements [first, last) of the chunk, whose moments are all exact or all not.
optim::AdamWArrays arrays_of(const GroupChunk& chunk, const StateSpans& spans, int64_t first, int64_t last,
                             bool exact) {
  const StateLayout& layout = *chunk.layout;
  const int64_t element = chunk.begin + first;
  optim::AdamWArrays arrays{.count = last - first,
                            .rule = layout.rule(),
                            .weight_dtype = layout.weights(),
                            .weights = chunk.weights + first * size_of(layout.weights()),
                            .master = place(chunk, spans, StatePart::master, element),
                            .gradient_dtype = chunk.gradient_dtype,
                            .gradients = chunk.gradients + first * size_of(chunk.gradient_dtype),
                            .moments = exact ? MomentFormat::f32 : layout.moments(),
                            .group = chunk.group,
                            .first = element};
  if (exact) {
    const int64_t number = layout.span(StatePart::m_exact, 0, element).count;
    arrays.m = place(chunk, spans, StatePart::m_exact, number);
    arrays.v = place(chunk, spans, StatePart::v_exact, number);
  } else {
    arrays.m = place(chunk, spans, StatePart::m, element);
    arrays.v = place(chunk, spans, StatePart::v, element);
    arrays.m_scales = place<float>(chunk, spans, StatePart::m_scales, element / kStateBlock);
    arrays.v_scales = place<float>(chunk, spans, StatePart::v_scales, element / kStateBlock);
  }
  return arrays;
}

}  // namespace

GroupChunk lay_out_chunk(const UpdateKind& kind, int64_t elements, std::byte* memory) {
  const int64_t weights = elements * size_of(kind.states.weights()), gradients = elements * size_of(kind.gradients);
  return {.weights = memory,
          .gradients = memory + weights,
          .states = memory + weights + gradients,
          .layout = &kind.states,
          .elements = elements,
          .decayed = elements,
          .gradient_dtype = kind.gradients};
}

optim::GradientView gradient_view(const std::byte* at, Dtype dtype, int64_t elements) {
  const auto count = static_cast<size_t>(elements);
  if (dtype == Dtype::f32) return {{reinterpret_cast<const float*>(at), count}, {}};
  const std::span bits(reinterpret_cast<const uint16_t*>(at), count);
  return dtype == Dtype::bf16 ? optim::GradientView{{}, bits} : optim::GradientView{{}, {}, bits};
}

void for_each_alike(const GroupChunk& chunk, int64_t first, int64_t last,
                    const std::function<void(const optim::AdamWArrays& arrays, bool decays)>& act) {
  const StateSpans spans = chunk.layout->spans(chunk.begin, chunk.begin + chunk.elements);
  for (int64_t at = first; at < last;) {
    const StateLayout::Run run = chunk.layout->run_at(chunk.begin + at, chunk.begin + last);
    const int64_t to = run.end - chunk.begin, border = std::clamp(chunk.decayed, at, to);
    const bool exact = run.kind == StateLayout::Kind::exact;
    if (run.kind != StateLayout::Kind::gap) {
      if (at < border) act(arrays_of(chunk, spans, at, border, exact), true);
      if (border < to) act(arrays_of(chunk, spans, border, to, exact), false);
    }
    at = to;
  }
}

void update_range(const GroupChunk& chunk, int64_t first, int64_t last, const optim::AdamWSettings& settings) {
  optim::AdamWSettings undecayed = settings;
  undecayed.weight_decay = 0;
  for_each_alike(chunk, first, last, [&](const optim::AdamWArrays& arrays, bool decays) {
    optim::update(optim::best_isa(), decays ? settings : undecayed, arrays);
  });
}

}  // namespace sluice::exec
