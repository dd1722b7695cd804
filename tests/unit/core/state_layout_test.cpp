#include "runtime/core/state_layout.h"

#include <gtest/gtest.h>

#include <random>

namespace sluice {
namespace {

using Kind = StateLayout::Kind;

TEST(StateLayout, BytesOfAParameterAreThoseOfTheDesign) {
  constexpr int64_t kMany = 1 << 20;
  const auto bytes = [](MomentFormat moments, Dtype weights) {
    return static_cast<double>(StateLayout(moments, weights).bytes(0, kMany)) / kMany;
  };
  EXPECT_EQ(bytes(MomentFormat::f32, Dtype::f32), 8);
  EXPECT_EQ(bytes(MomentFormat::f32, Dtype::bf16), 10);
  EXPECT_EQ(bytes(MomentFormat::f32, Dtype::f16), 12);
  EXPECT_EQ(bytes(MomentFormat::bf16, Dtype::bf16), 6);
  EXPECT_EQ(bytes(MomentFormat::int8, Dtype::bf16), 4 + 8.0 / 256);
}

TEST(StateLayout, LionKeepsOneMoment) {
  constexpr int64_t kMany = 1 << 20;
  for (const MomentFormat moments : {MomentFormat::f32, MomentFormat::bf16, MomentFormat::int8}) {
    const StateLayout adamw(moments, Dtype::f32), lion(moments, Dtype::f32, {}, {}, UpdateRule::lion);
    EXPECT_EQ(2 * lion.bytes(0, kMany), adamw.bytes(0, kMany)) << name_of(moments);
    for (const StatePart part : {StatePart::v, StatePart::v_scales, StatePart::v_exact})
      EXPECT_EQ(lion.span(part, 0, kMany).count, 0) << name_of(moments);
  }
}

std::vector<ElementRange> random_ranges(std::mt19937_64& random, int64_t elements) {
  std::vector<ElementRange> ranges;
  int64_t at = 0;
  for (int i = 0; i < 4; ++i) {
    const auto blocks = [&](int64_t most) {
      return kStateBlock * static_cast<int64_t>(random() % static_cast<uint64_t>(most) + 1);
    };
    const ElementRange range{at + blocks(20), at + blocks(20) + 20 * kStateBlock};
    if (range.end > elements) break;
    ranges.push_back(range);
    at = range.end;
  }
  return ranges;
}

// Chunks of a group lie in its home one after the other.
TEST(StateLayout, RangesThatFollowEachOtherFillTheWhole) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    const auto moments = static_cast<MomentFormat>(random() % 3);
    const int64_t elements = static_cast<int64_t>(random() % 100 + 1) * kStateBlock;
    const auto exact = moments == MomentFormat::int8 ? random_ranges(random, elements) : std::vector<ElementRange>();
    const StateLayout layout(moments, random() % 2 == 0 ? Dtype::bf16 : Dtype::f16, exact);
    int64_t sum = 0;
    for (int64_t begin = 0; begin < elements; begin += kStateChunkStep)
      sum += layout.bytes(begin, std::min(begin + kStateChunkStep, elements));
    EXPECT_EQ(sum, layout.bytes(0, elements)) << "seed " << seed;
  }
}

TEST(StateLayout, PartsDoNotOverlapAndAreAligned) {
  const StateLayout layout(MomentFormat::int8, Dtype::bf16, {{512, 1024}, {4096, 8192}});
  const StateSpans spans = layout.spans(0, 8448);
  int64_t end = 0;
  for (const StateSpan& span : spans) {
    EXPECT_EQ(span.offset % kTensorAlignmentBytes, 0);
    EXPECT_GE(span.offset, end);
    end = span.offset + span.bytes();
  }
  EXPECT_EQ(spans[static_cast<size_t>(StatePart::m_scales)].count, 33);
  EXPECT_EQ(spans[static_cast<size_t>(StatePart::m_exact)].count, 512 + 4096);
  EXPECT_EQ(layout.span(StatePart::v_exact, 4096, 8192).begin, 512);
  EXPECT_EQ(StateLayout(MomentFormat::bf16, Dtype::f32).span(StatePart::master, 0, 100).count, 0);
}

TEST(StateLayout, RunsEndWhereTheKindChanges) {
  const StateLayout layout(MomentFormat::int8, Dtype::bf16, {{512, 1024}}, {{300, 512}, {5000, 5120}});
  const auto at = [&](int64_t element) { return layout.run_at(element, 6000); };
  EXPECT_TRUE(at(0).kind == Kind::plain && at(0).end == 300);
  EXPECT_TRUE(at(300).kind == Kind::gap && at(300).end == 512);
  EXPECT_TRUE(at(600).kind == Kind::exact && at(600).end == 1024);
  EXPECT_TRUE(at(1024).kind == Kind::plain && at(1024).end == 5000);
  EXPECT_TRUE(at(5119).kind == Kind::gap && at(5119).end == 5120);
  EXPECT_TRUE(at(5120).kind == Kind::plain && at(5120).end == 6000);
}

TEST(StateLayoutDeathTest, FloatingPointMomentsHaveNoExactOnes) {
  EXPECT_DEATH(StateLayout(MomentFormat::bf16, Dtype::bf16, {{0, 256}}), "one format");
  EXPECT_DEATH(StateLayout(MomentFormat::int8, Dtype::bf16, {{0, 100}}), "whole blocks");
}

}  // namespace
}  // namespace sluice
