// A report is one file: what its page is made of goes into it whole, and what is missing is named with its fix.
#include "runtime/train/report.h"

#include <cstdlib>
#include <iterator>

#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

class ReportTest : public JobFolder {
 protected:
  void SetUp() override {
    JobFolder::SetUp();
    std::filesystem::create_directory("page");
    write("page/page.html", "<style>/*style*/</style><script>/*plotly*/</script><script>/*data*/;/*script*/</script>");
    write("page/page.css", "p {}");
    write("page/page.js", "draw();");
    write("page/plotly.min.js", "var Plotly;");
    ::setenv("SLUICE_REPORT_DIR", "page", 1);
  }
  void TearDown() override {
    ::unsetenv("SLUICE_REPORT_DIR");
    JobFolder::TearDown();
  }

  static std::string refusal(const std::string& json = "{}") {
    try {
      write_report("report.html", json);
    } catch (const SetupError& error) {
      return error.what();
    }
    return "written";
  }
};

TEST_F(ReportTest, HoldsStyleScriptPlotlyAndDataThatCannotEndItsScript) {
  write_report("report.html", R"({"title": "</script><!--"})");
  std::ifstream stream("report.html");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(stream), {}),
            "<style>p {}</style><script>var Plotly;</script><script>{\"title\": \"\\u003c/script>\\u003c!--\"};draw();"
            "</script>");
}

TEST_F(ReportTest, APartThatIsMissingOrEmptyIsNamedAndNothingIsWritten) {
  const std::string fix = "\n  fix: set SLUICE_REPORT_DIR to the folder runtime/report of Sluice's source";
  write("page/page.js", "");
  EXPECT_EQ(refusal(), "page/page.js: cannot be read" + fix);
  std::filesystem::remove("page/page.css");
  EXPECT_EQ(refusal(), "page/page.css: cannot be read" + fix);
  std::filesystem::remove("page/page.html");
  EXPECT_EQ(refusal(), "the report's page is not there: no page.html in page" + fix);
  EXPECT_THROW(check_report(), SetupError);
  EXPECT_FALSE(std::filesystem::exists("report.html"));
}

TEST_F(ReportTest, PlotlyIsAskedForBeforeWhatTakesLong) {
  check_report();
  write("page/plotly.min.js", "");
  try {
    check_report();
    FAIL();
  } catch (const SetupError& error) {
    EXPECT_EQ(error.error().message, "page/plotly.min.js: cannot be read");
    EXPECT_NE(error.error().hint.find("`make setup` installs it"), std::string::npos) << error.error().hint;
  }
}

}  // namespace
}  // namespace sluice::train
