#include "runtime/plan/job_memory.h"

namespace sluice::plan {

Homes::Homes() : map_(std::make_unique<Map>()) {}
Homes::~Homes() = default;
Homes::Homes(Homes&&) noexcept = default;
Homes& Homes::operator=(Homes&&) noexcept = default;

JobMemory::JobMemory(const std::vector<Buffer>& buffers, const PhaseTask& task, Homes::Map& homes, bool learning)
    : buffers_(buffers), task_(task), homes_(homes), learning_(learning) {
  if (!learning) {
    each_home([&](Tier tier, int64_t begin, int64_t end, const Content& at_home) {
      memory(tier).assign(begin, end, task_.at_begin(tier, at_home));
    });
    return;
  }
  for (const Buffer& each : buffers) {
    if (!each.persistent) continue;
    memory(each.tier).assign(each.offset, each.offset + each.bytes, {{Thing::home, static_cast<int>(each.tier)}, 0});
    lasting_[static_cast<size_t>(each.tier)].assign(each.offset, each.offset + each.bytes, true);
  }
}

template <class Visit>
void JobMemory::each_home(const Visit& visit) {
  for (const Buffer& each : buffers_) {
    if (!each.persistent) continue;
    homes(each.tier).each(each.offset, each.offset + each.bytes,
                          [&](int64_t begin, int64_t end, const Content& content) {
                            if (content.thing.kind != Thing::nothing) visit(each.tier, begin, end, content);
                          });
  }
}

void JobMemory::learn(Tier tier, int64_t begin, int64_t end, Content content) {
  content.thing.version = 0;
  homes(tier).each(begin, end, [&](int64_t, int64_t, Content& known) {
    if (known.thing.kind != Thing::nothing && known != content)
      fail("takes the place of " + describe(known.thing) + " for " + describe(content.thing));
    known = content;
  });
}

void JobMemory::expect(const Operand& operand, int64_t bytes, const Thing& thing, int64_t thing_offset) {
  const Content wanted{thing, address(operand) - thing_offset};
  memory(buffer(operand).tier)
      .each(address(operand), address(operand) + bytes, [&](int64_t begin, int64_t end, const Content& held) {
        if (learning_ && held.thing.kind == Thing::home && thing.lasts()) {
          const int64_t home = begin - held.base;
          learn(static_cast<Tier>(held.thing.a), home, home + end - begin, {thing, home - (begin - wanted.base)});
        } else if (!learning_ && held != wanted) {
          fail("takes " + buffer(operand).name.text() + " for " + describe(thing) + "; it holds " +
               (held.thing == thing ? "another part of it" : describe(held.thing)));
        }
      });
}

void JobMemory::put(const Operand& operand, int64_t bytes, const Thing& thing, int64_t thing_offset) {
  put(buffer(operand).tier, address(operand), address(operand) + bytes, {thing, address(operand) - thing_offset});
}

void JobMemory::put(Tier tier, int64_t begin, int64_t end, const Content& content) {
  memory(tier).assign(begin, end, content);
  if (!learning_ || !content.thing.lasts()) return;
  lasting_[static_cast<size_t>(tier)].each(begin, end, [&](int64_t from, int64_t to, bool lasting) {
    if (lasting) learn(tier, from, to, content);
  });
}

const Thing& JobMemory::first(const Operand& operand) {
  const Thing* found = nullptr;
  memory(buffer(operand).tier).each(address(operand), address(operand) + 1, [&](int64_t, int64_t, const Content& held) {
    found = &held.thing;
  });
  return *found;
}

void JobMemory::move(const Operand& from, const Operand& to, int64_t padded_bytes,
                     const std::function<void(Thing&)>& as) {
  struct Piece {
    int64_t begin, end;
    Content content;
  };
  std::vector<Piece> pieces;
  const int64_t shift = address(to) - address(from);
  memory(buffer(from).tier)
      .each(address(from), address(from) + from.bytes, [&](int64_t begin, int64_t end, Content held) {
        held.base += shift;
        if (held.thing.kind == Thing::nothing) held = {};
        if (as) as(held.thing);
        pieces.push_back({begin + shift, end + shift, held});
      });
  put(buffer(to).tier, address(to) + to.bytes, address(to) + padded_bytes, {});
  for (const Piece& piece : pieces) put(buffer(to).tier, piece.begin, piece.end, piece.content);
}

void JobMemory::check_end() {
  each_home([&](Tier tier, int64_t begin, int64_t end, const Content& at_home) {
    const Content wanted = task_.at_end(tier, at_home);
    memory(tier).each(begin, end, [&](int64_t, int64_t, const Content& held) {
      if (held.thing != wanted.thing || (held.thing.kind != Thing::nothing && held.base != wanted.base))
        fail("leaves " + describe(held.thing) + " where " + describe(wanted.thing) + " should be");
    });
  });
}

void JobMemory::fail(const std::string& what) {
  if (problem_.empty()) problem_ = what;
}

}  // namespace sluice::plan
