// Folders of programs and pages that go with the product.
#pragma once

#include <filesystem>

namespace sluice::train {

struct ShippedFolder {
  const char* what;      // for people: "the text programs are"
  const char* name;      // beside the binary or the library that holds this, where Sluice is installed
  const char* file;      // in it
  const char* variable;  // of the environment; names another folder, and no other is looked at then
  const char* source;    // in the folder that Sluice was built in: taken when nothing is installed
};

// Throws SetupError when there is none, which says where it was looked for.
std::filesystem::path find_shipped(const ShippedFolder& folder);

}  // namespace sluice::train
