// sluice: fine-tunes language models that do not fit the machine they are trained on.
//
// Exit codes: 0 done; 2 the command line, the job or the set-up is wrong, and nothing was written; 3 a run failed;
// 128 + a signal's number: stopped by it, with a checkpoint.

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "models/nearest_name.h"
#include "runtime/cli/commands.h"
#include "runtime/core/result.h"

namespace sluice::cli {
namespace {

constexpr int kSetupFailed = 2;
constexpr int kRunFailed = 3;

int failed(const char* message, int exit_code) {
  std::fflush(stdout);
  std::fprintf(stderr, "sluice: %s\n", message);
  return exit_code;
}

// One message for a command line that makes no sense.
std::string usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = app.remaining();
  if (app.get_subcommands().empty() && !unknown.empty() && !unknown.front().starts_with('-')) {
    std::vector<std::string> names;
    for (const CLI::App* command : app.get_subcommands(nullptr)) names.push_back(command->get_name());
    return "no command '" + unknown.front() + "'\n  fix: did you mean '" +
           models::nearest_name(unknown.front(), names) + "'? see `sluice --help`";
  }
  const std::string command = app.get_subcommands().empty() ? "" : " " + app.get_subcommands().front()->get_name();
  return std::string(error.what()) + "\n  fix: see `sluice" + command + " --help`";
}

int run_command(const Action& action) {
  try {
    return action();
  } catch (const SetupError& error) {
    return failed(error.what(), kSetupFailed);
  } catch (const RunError& error) {
    return failed(error.what(), kRunFailed);
  } catch (const std::exception& error) {
    return failed(error.what(), kRunFailed);
  }
}

// A stream that the caller closed would be the next file that is opened: what is printed would end in a checkpoint.
void open_closed_streams() {
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; ++stream)
    if (fcntl(stream, F_GETFD) < 0) (void)!open("/dev/null", stream == STDIN_FILENO ? O_RDONLY : O_WRONLY);
}

int main_of(int argc, char** argv) {
  open_closed_streams();
  CLI::App app("Fine-tunes language models that do not fit the machine they are trained on.", "sluice");
  app.set_version_flag("--version", "sluice " SLUICE_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(32);
  Action action;
  add_train(app, action);
  add_plan(app, action);
  add_probe(app, action);
  add_profile(app, action);
  add_preprocess(app, action);
  add_generate(app, action);
  add_merge(app, action);
  add_doctor(app, action);
  add_fsck(app, action);
  add_completion(app, action);
  add_man(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // --help and --version come this way too, with code 0.
    if (error.get_exit_code() == 0) return app.exit(error);
    return failed(usage_error(app, error).c_str(), kSetupFailed);
  }
  return run_command(action);
}

}  // namespace
}  // namespace sluice::cli

int main(int argc, char** argv) { return sluice::cli::main_of(argc, argv); }
