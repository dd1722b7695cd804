// manifest.json of a checkpoint: what is accepted names whole pages of the files that it names, covers each extent, is
// read as it is written, and can be looked for in swap files that are shorter than it says.
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/manifest.h"
#include "tests/fuzz/fuzz_folder.h"

namespace {

using namespace sluice;

constexpr int64_t kPageBytes = 4096;
// Reading what a swap file does not have takes memory first: the fuzzer's is limited.
constexpr int64_t kPieceBytesMax = 1 << 20;

bool is_small(const train::Manifest& manifest) {
  for (const train::ManifestExtent& extent : manifest.extents)
    for (const train::ManifestPiece& piece : extent.pieces)
      if (piece.bytes > kPieceBytesMax) return false;
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  static const fuzz::FuzzFolder folder;
  const std::filesystem::path checkpoint = std::filesystem::absolute("out/checkpoint-1");
  fuzz::FuzzFolder::write(checkpoint / train::kManifestFile, fuzz::text_of(data, bytes));
  fuzz::FuzzFolder::write("out/sluice-swap/a.extents", std::string(3 * kPageBytes, 'x'));
  train::Manifest manifest;
  if (!fuzz::accepts([&] { manifest = train::read_manifest(checkpoint); })) return 0;
  int64_t covered = 0;
  for (const train::ManifestExtent& extent : manifest.extents) {
    SLUICE_CHECK(extent.begin < extent.end && extent.bytes > 0, "an empty extent");
    int64_t pieces = 0;
    for (const train::ManifestPiece& piece : extent.pieces) {
      SLUICE_CHECK(piece.file >= 0 && static_cast<size_t>(piece.file) < manifest.files.size(), "a file without a name");
      SLUICE_CHECK(piece.bytes > 0 && piece.bytes % kPageBytes == 0 && piece.offset % kPageBytes == 0,
                   "no whole pages");
      SLUICE_CHECK(piece.offset >= 0, "a place before the file");
      pieces += piece.bytes;
    }
    SLUICE_CHECK(pieces >= extent.bytes && pieces < extent.bytes + kPageBytes, "pieces that are not the extent");
    covered += pieces;
  }
  SLUICE_CHECK(train::bytes_of(manifest) == covered, "another sum of bytes");
  const std::string written = train::to_json(manifest, checkpoint);
  SLUICE_CHECK(train::to_json(train::parse_manifest(written, checkpoint), checkpoint) == written,
               "a manifest that reads otherwise");
  if (is_small(manifest)) (void)train::find_damage(manifest, 3);
  return 0;
}
