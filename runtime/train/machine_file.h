// machine.yaml: a plan::Machine for people to read and edit. Every number carries its unit ("1.7 GB/s"). Keys and their
// meaning: configs/machine/README.md.
#pragma once

#include <filesystem>
#include <string>

#include "runtime/plan/machine.h"

namespace sluice::train {

// Throws SetupError with file, line and fix: no such file, not YAML, a key unknown, missing or twice, a unit that is
// not known, a rate that is not above 0.
plan::Machine read_machine(const std::filesystem::path& file);
plan::Machine parse_machine(const std::string& text, const std::string& origin);

// Six digits of each number survive.
std::string machine_text(const plan::Machine& machine);
// Replaces the file whole or not at all. Throws SetupError.
void write_machine(const plan::Machine& machine, const std::filesystem::path& file);

}  // namespace sluice::train
