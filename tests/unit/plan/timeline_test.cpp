#include "runtime/plan/timeline.h"

#include <gtest/gtest.h>

namespace sluice::plan {
namespace {

JobShape one_block() {
  JobShape shape;
  shape.groups.resize(1);
  shape.groups[0].name = "layer.0.mlp";
  shape.blocks.resize(1);
  shape.blocks[0].name = "layer.0";
  return shape;
}
Op op_of(OpKind kind, Lane lane, int block, int group) {
  Op op;
  op.kind = kind;
  op.lane = lane;
  op.block = block;
  op.group = group;
  return op;
}

TEST(Timeline, AlikeNeighboursAreOneSpanNamedByBlockOrGroup) {
  Schedule schedule;
  schedule.ops = {op_of(OpKind::update, Lane::optim, kNone, 0), op_of(OpKind::forward, Lane::compute, 0, kNone),
                  op_of(OpKind::update, Lane::optim, kNone, 0), op_of(OpKind::update, Lane::optim, kNone, 0)};
  const auto spans = timeline_of(schedule, {{{0}, {10}}, {{0}, {100}}, {{10}, {20}}, {{50}, {60}}}, one_block(), 100);
  ASSERT_EQ(spans.size(), 3u);
  EXPECT_EQ(spans[0].what, "forward layer.0");
  EXPECT_EQ(spans[1].what, "update layer.0.mlp");
  EXPECT_DOUBLE_EQ(spans[1].when.end.count, 20);
  EXPECT_DOUBLE_EQ(spans[2].when.begin.count, 50);
}

TEST(Timeline, ManyOpsAreDrawnAsFewAndCoverTheSameTime) {
  Schedule schedule;
  std::vector<Slice> ops;
  for (int i = 0; i < 10000; ++i) {
    schedule.ops.push_back(op_of(i % 2 ? OpKind::read : OpKind::read_source, Lane::read, 0, kNone));
    ops.push_back({{i * 10.0}, {i * 10.0 + 9}});
  }
  const auto spans = timeline_of(schedule, ops, one_block(), 500);
  EXPECT_LE(spans.size(), 500u);
  EXPECT_GE(spans.size(), 1u);
  EXPECT_DOUBLE_EQ(spans.front().when.begin.count, 0);
  EXPECT_DOUBLE_EQ(spans.back().when.end.count, 99999);
}

}  // namespace
}  // namespace sluice::plan
