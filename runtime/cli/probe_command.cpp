#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/runtime_library.h"

namespace sluice::cli {

void add_probe(CLI::App& app, Action& action) {
  const auto options = std::make_shared<train::ProbeOptions>();
  CLI::App* command = app.add_subcommand("probe", "measure what this machine can do, in less than a minute");
  command->add_option("--out", options->out, "the file to write")->type_name("FILE")->capture_default_str();
  command
      ->add_option("--nvme,--nvme-path", options->nvme_paths,
                   "folders on the drives to measure, as in offload.nvme_path; the current one when not given")
      ->type_name("DIR");
  const auto device = std::make_shared<std::string>("auto");
  command->add_option("--device", *device, "what computes: cpu, cuda or auto, which is the GPU where there is one")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}).description(""))
      ->type_name("auto|cpu|cuda")
      ->capture_default_str();
  command->add_flag("--force", options->force, "measure again, whatever was measured before");
  command->add_flag("--quick", options->quick, "seconds instead of a minute, and rough: to try things out");
  command->callback([options, device, &action] {
    using train::DeviceKind;
    options->device = *device == "cpu" ? DeviceKind::cpu : *device == "cuda" ? DeviceKind::cuda : DeviceKind::automatic;
    if (options->nvme_paths.empty()) options->nvme_paths = {"."};
    action = [options] { return runtime_library().probe(*options); };
  });
}

}  // namespace sluice::cli
