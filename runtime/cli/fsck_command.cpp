#include <CLI/CLI.hpp>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/train/fsck.h"

namespace sluice::cli {

void add_fsck(CLI::App& app, Action& action) {
  const auto output_dir = std::make_shared<std::filesystem::path>();
  CLI::App* command = app.add_subcommand("fsck", "verify a job's checkpoints, and say which one to resume from");
  command->footer("Exit codes: 0 all is whole; 2 something is damaged or left over.");
  command->add_option("output_dir", *output_dir, "the job's output_dir")->required()->type_name("DIR");
  command->callback([output_dir, &action] { action = [output_dir] { return train::run_fsck(*output_dir); }; });
}

}  // namespace sluice::cli
