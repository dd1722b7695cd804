// literature_tables MACHINE_FILE [calibration|published|room|8bit|bf16|13B|30B|65B|100B|175B ...]: peers' policies and
// ours, simulated on the machine that Fuyou was measured on, as Markdown; all tables when none is named. After `8bit`
// or `bf16` our moments are in that format. Nothing runs on such a machine here.
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "bench/literature/calibration.h"
#include "bench/literature/tables.h"
#include "runtime/core/result.h"
#include "runtime/train/machine_file.h"

namespace {

using namespace sluice;
using namespace sluice::literature;

void run(std::span<char*> arguments) {
  if (arguments.size() < 2) throw SetupError("no machine file", "literature_tables configs/machine/fuyou_768g.yaml");
  // One piece of state is read, updated and written before the next is read: the depth that fits the figures best.
  const Fuyou policy{1};
  const plan::Machine file = train::read_machine(arguments[1]);
  const plan::Machine machine = calibrated(file, calibrate(policy, file));
  std::vector<std::string> wanted(arguments.begin() + 2, arguments.end());
  if (wanted.empty()) wanted = {"calibration", "published", "13B", "30B", "65B", "100B", "175B", "room"};
  StateFormat states = StateFormat::split_master;
  for (const std::string& what : wanted) {
    if (what == "bf16" || what == "8bit") {
      states = what == "bf16" ? StateFormat::split_master_bf16 : StateFormat::split_master_int8;
    } else if (what == "calibration") {
      print_calibration(policy, file, machine);
    } else if (what == "published") {
      print_against_published(machine);
    } else if (what == "room") {
      print_device_room(machine);
    } else {
      print_comparison(dense_model(what), policy, machine, states);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run({argv, static_cast<size_t>(argc)});
  } catch (const SetupError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  return 0;
}
