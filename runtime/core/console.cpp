#include "runtime/core/console.h"

#include "runtime/core/live_line.h"

namespace sluice {
namespace {

constexpr int kPatienceMs = 1000;

std::string gap_text(int64_t dropped, GapText text) {
  if (dropped == 0) return "";
  return text == GapText::json ? "{\"lines_not_read\":" + std::to_string(dropped) + "}\n"
                               : "(" + std::to_string(dropped) + " lines that nobody read)\n";
}

}  // namespace

void Console::say(const std::string& line) {
  const std::lock_guard lock(mutex_);
  live_ != nullptr ? live_->above([&] { write(line); }) : write(line);
}

void Console::write(const std::string& line) {
  const std::string text = gap_text(dropped_, gap_) + line + "\n";
  stream_.write(text, dropped_ > 0 ? 0 : kPatienceMs) ? void(dropped_ = 0) : void(++dropped_);
}

}  // namespace sluice
