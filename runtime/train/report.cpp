#include "runtime/train/report.h"

#include <fstream>
#include <iterator>

#include "runtime/core/result.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/shipped_folder.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPage = "page.html";
constexpr const char* kBundle = "plotly.min.js";

fs::path report_folder() {
  return find_shipped({"the report's page is", "report", kPage, "SLUICE_REPORT_DIR", SLUICE_BUILD_REPORT_DIR});
}

std::string content_of(const fs::path& file, const char* fix) {
  std::ifstream stream(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!stream || text.empty()) throw SetupError(file.string() + ": cannot be read", fix);
  return text;
}

std::string bundle(const fs::path& folder) {
  const fs::path beside = folder / kBundle, built_with = SLUICE_BUILD_PLOTLY_JS;
  return content_of(fs::exists(beside) || built_with.empty() ? beside : built_with,
                    "plotly's PyPI package has it as plotly/package_data/plotly.min.js: `make setup` installs it, and "
                    "configuring again finds it");
}

// Inside a script element nothing may look like its end, or like the begin of a comment.
std::string inside_script(std::string json) {
  std::string safe;
  safe.reserve(json.size());
  for (const char c : json) {
    if (c == '<')
      safe += "\\u003c";
    else
      safe += c;
  }
  return safe;
}

void fill(std::string& page, const std::string& place, const std::string& text) {
  const size_t at = page.find(place);
  SLUICE_CHECK(at != std::string::npos, "the page has no place for " + place);
  page.replace(at, place.size(), text);
}

}  // namespace

void check_report() { bundle(report_folder()); }

void write_report(const fs::path& file, const std::string& json) {
  constexpr const char* kFix = "set SLUICE_REPORT_DIR to the folder runtime/report of Sluice's source";
  const fs::path folder = report_folder();
  std::string page = content_of(folder / kPage, kFix);
  fill(page, "/*style*/", content_of(folder / "page.css", kFix));
  fill(page, "/*script*/", content_of(folder / "page.js", kFix));
  fill(page, "/*data*/", inside_script(json));
  fill(page, "/*plotly*/", bundle(folder));
  replace_file(fs::absolute(file), page);
}

}  // namespace sluice::train
