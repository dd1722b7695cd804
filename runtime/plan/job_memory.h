// The memory that a schedule is walked through with: what every byte of every tier holds, and where lasting things
// have their homes. While homes are learnt, lasting memory begins unnamed, and is what ops take it for.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/plan/memory_content.h"
#include "runtime/plan/phase_task.h"
#include "runtime/plan/verify.h"

namespace sluice::plan {

struct Homes::Map {
  Memory memory;  // version 0 of each thing
};

class JobMemory {
 public:
  // `homes` is written only while learning.
  JobMemory(const std::vector<Buffer>& buffers, const PhaseTask& task, Homes::Map& homes, bool learning);

  // The first `bytes` of the operand hold the thing from its byte `thing_offset` on.
  void expect(const Operand& operand, int64_t bytes, const Thing& thing, int64_t thing_offset = 0);
  void put(const Operand& operand, int64_t bytes, const Thing& thing, int64_t thing_offset = 0);
  // Bytes go on being what they are, wherever they are; `as` says what they become else. What is moved beyond the
  // operand's bytes is nothing.
  void move(const Operand& from, const Operand& to, int64_t padded_bytes, const std::function<void(Thing&)>& as = {});
  const Thing& first(const Operand& operand);  // what its first byte holds
  // Every home holds what the phase is to leave there.
  void check_end();

  const std::string& problem() const { return problem_; }  // the first; empty: none

 private:
  const Buffer& buffer(const Operand& operand) const { return buffers_[static_cast<size_t>(operand.buffer)]; }
  int64_t address(const Operand& operand) const { return buffer(operand).offset + operand.offset; }
  RangeMap<Content>& memory(Tier tier) { return memory_[static_cast<size_t>(tier)]; }
  RangeMap<Content>& homes(Tier tier) { return homes_.memory[static_cast<size_t>(tier)]; }
  template <class Visit>
  void each_home(const Visit& visit);
  void put(Tier tier, int64_t begin, int64_t end, const Content& content);
  void learn(Tier tier, int64_t begin, int64_t end, Content content);
  void fail(const std::string& what);

  const std::vector<Buffer>& buffers_;
  const PhaseTask& task_;
  Homes::Map& homes_;
  const bool learning_;
  Memory memory_;
  std::array<RangeMap<bool>, kTierCount> lasting_;  // while learning
  std::string problem_;
};

}  // namespace sluice::plan
