#include "runtime/plan/schedule.h"

#include <array>
#include <sstream>

namespace sluice::plan {

std::string_view name_of(Tag tag) {
  constexpr std::array<std::string_view, kTagCount> names = {"weights",    "states",    "gradients", "activations",
                                                             "boundaries", "workspace", "staging"};
  return names[static_cast<size_t>(tag)];
}

std::string_view name_of(OpKind kind) {
  constexpr std::array<std::string_view, 14> names = {
      "read_source", "unpack",   "init_states", "read",      "write", "copy_to_device", "copy_to_host",
      "forward",     "backward", "loss",        "loss_only", "norm",  "update",         "duplicate"};
  return names[static_cast<size_t>(kind)];
}

std::string describe(const Op& op) {
  std::ostringstream text;
  text << name_of(op.kind);
  if (op.block != kNone) text << " block " << op.block;
  if (op.group != kNone) text << " group " << op.group;
  if (op.micro_batch != kNone) text << " micro-batch " << op.micro_batch;
  if (op.end > 0) text << " [" << op.begin << ", " << op.end << ")";
  return text.str();
}

std::string to_table(const Schedule& schedule, const std::vector<Buffer>& buffers) {
  std::ostringstream text;
  text << "# " << schedule.name << ": " << schedule.ops.size() << " ops\n";
  for (size_t id = 0; id < schedule.ops.size(); ++id) {
    const Op& op = schedule.ops[id];
    text << id << '\t' << name_of(op.lane) << '\t' << describe(op) << '\t';
    if (op.flops > 0) {
      text << op.flops / 1e9 << " GFLOP";
    } else {
      text << to_string(Bytes{op.bytes});
    }
    text << '\t';
    for (const Operand& operand : op.operands) {
      text << (operand.access == Access::read    ? ""
               : operand.access == Access::write ? ">"
                                                 : "*")
           << buffers[static_cast<size_t>(operand.buffer)].name.text() << ' ';
    }
    text << "\tafter";
    for (OpId dependency : op.after) text << ' ' << dependency;
    text << '\n';
  }
  return text.str();
}

}  // namespace sluice::plan
