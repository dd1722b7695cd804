#include "runtime/exec/trace.h"

#include <cstdio>
#include <fstream>

#include "runtime/core/result.h"

namespace sluice::exec {

void TraceWriter::add(std::string_view process, const plan::Schedule& schedule, const std::vector<plan::Slice>& ops,
                      double begin_us) {
  char text[512];
  for (size_t id = 0; id < ops.size(); ++id) {
    const plan::Op& op = schedule.ops[id];
    std::snprintf(text, sizeof text,
                  "{\"ph\":\"X\",\"pid\":\"%.*s\",\"tid\":\"%.*s\",\"name\":\"%s\",\"ts\":%.1f,\"dur\":%.1f,"
                  "\"args\":{\"op\":%zu,\"bytes\":%lld,\"gflop\":%.3f,\"phase\":\"%s\"}}",
                  static_cast<int>(process.size()), process.data(), static_cast<int>(name_of(op.lane).size()),
                  name_of(op.lane).data(), describe(op).c_str(), begin_us + ops[id].begin.count,
                  ops[id].end.count - ops[id].begin.count, id, static_cast<long long>(op.bytes), op.flops / 1e9,
                  schedule.name.c_str());
    if (!events_.empty()) events_ += ",\n";
    events_ += text;
  }
}

void TraceWriter::save(const std::filesystem::path& file) const {
  std::ofstream out(file);
  out << "{\"traceEvents\":[\n" << events_ << "\n]}\n";
  out.close();
  if (!out)
    throw RunError({ErrorCode::io, file.string() + ": cannot write the trace", "check the folder and free space"});
}

}  // namespace sluice::exec
