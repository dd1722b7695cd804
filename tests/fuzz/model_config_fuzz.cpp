// A model's config.json.
#include "models/decoder.h"
#include "models/decoder_groups.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  static const fuzz::FuzzFolder folder;
  fuzz::FuzzFolder::write("config.json", fuzz::text_of(data, bytes));
  fuzz::accepts([] {
    const models::DecoderSpec spec = models::read_decoder_spec("config.json");
    // What a model that small is laid out as; one of millions of layers is refused for its memory, later.
    if (spec.layers <= 64) models::decoder_groups(spec, std::nullopt);
  });
  return 0;
}
