#include "runtime/train/plan_diff.h"

#include <algorithm>
#include <sstream>
#include <vector>

namespace sluice::train {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// common[i][j]: the length of the longest common subsequence of a[i..] and b[j..].
std::vector<std::vector<int>> common_tails(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  std::vector<std::vector<int>> common(a.size() + 1, std::vector<int>(b.size() + 1, 0));
  for (size_t i = a.size(); i-- > 0;)
    for (size_t j = b.size(); j-- > 0;)
      common[i][j] = a[i] == b[j] ? common[i + 1][j + 1] + 1 : std::max(common[i + 1][j], common[i][j + 1]);
  return common;
}

class Writer {
 public:
  void both(const std::string& line) {
    if (!line.empty() && line.front() != ' ') heading_ = line;
  }
  void changed(char sign, const std::string& line) {
    if (line.empty()) return;
    if (line.front() == ' ' && !heading_.empty()) out_ << "  " << heading_ << '\n';
    heading_.clear();
    out_ << sign << ' ' << line << '\n';
  }
  std::string text() const { return out_.str(); }

 private:
  std::string heading_;  // not yet shown
  std::ostringstream out_;
};

}  // namespace

std::string line_diff(const std::string& before, const std::string& after) {
  const std::vector<std::string> a = lines_of(before), b = lines_of(after);
  const auto common = common_tails(a, b);
  Writer writer;
  for (size_t i = 0, j = 0; i < a.size() || j < b.size();) {
    if (i < a.size() && j < b.size() && a[i] == b[j]) {
      writer.both(a[i]);
      ++i, ++j;
    } else if (i < a.size() && (j == b.size() || common[i + 1][j] >= common[i][j + 1])) {
      writer.changed('-', a[i++]);
    } else {
      writer.changed('+', b[j++]);
    }
  }
  return writer.text();
}

}  // namespace sluice::train
