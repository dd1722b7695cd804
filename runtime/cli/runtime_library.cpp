#include "runtime/cli/runtime_library.h"

#include <dlfcn.h>

#include <cstring>
#include <filesystem>

#include "runtime/core/result.h"

namespace sluice::cli {
namespace {

constexpr const char* kBuildAgain = "build again: `make build`";

const train::EntryTable& open_library() {
  // Named by its whole path: a run path of ours would not be looked at below a sanitizer. RTLD_NOW: what is missing is
  // missed here.
  const std::filesystem::path file =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / train::kRuntimeLibrary;
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw SetupError(std::string("cannot load ") + ::dlerror(), kBuildAgain);
  void* symbol = ::dlsym(library, train::kEntrySymbol);
  if (symbol == nullptr)
    throw SetupError(std::string(train::kRuntimeLibrary) + " has no " + train::kEntrySymbol, kBuildAgain);
  const train::EntryTable* table = reinterpret_cast<train::EntryFunction>(symbol)();
  if (std::strcmp(table->version, SLUICE_VERSION) != 0 || table->config_bytes != sizeof(train::Config))
    throw SetupError(std::string(train::kRuntimeLibrary) + " (" + table->version +
                         ") is not of the same build as sluice (" + SLUICE_VERSION + ")",
                     kBuildAgain);
  return *table;
}

}  // namespace

const train::EntryTable& runtime_library() {
  static const train::EntryTable& table = open_library();
  return table;
}

}  // namespace sluice::cli
