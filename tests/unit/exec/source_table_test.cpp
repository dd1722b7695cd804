#include "runtime/exec/source_table.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "runtime/core/half.h"
#include "runtime/exec/first_states.h"

namespace sluice::exec {
namespace {

// A file image with tensors at odd places, and a group that holds them in another order with gaps.
struct Fixture {
  std::vector<std::byte> file;
  models::ParameterGroup group;
  std::vector<models::TensorLocation> places;
  std::vector<float> expected;  // per element of the group
};

Fixture make_fixture(uint64_t seed) {
  std::mt19937_64 random(seed);
  Fixture f;
  f.group = {"layer.0", true, 0, 0, {}};
  int64_t file_end = 100, group_end = 0;
  for (int i = 0; i < 6; ++i) {
    const auto elements = static_cast<int64_t>(1 + random() % 5000);
    const Dtype dtype = i % 3 == 0 ? Dtype::f32 : i % 3 == 1 ? Dtype::bf16 : Dtype::f16;
    f.group.tensors.push_back({"t" + std::to_string(i), {elements}, group_end, elements});
    f.places.push_back({"t" + std::to_string(i), dtype, {elements}, 0, file_end, elements * size_of(dtype)});
    group_end = round_up(group_end + elements, 32);
    file_end += elements * size_of(dtype) + static_cast<int64_t>(random() % 3) * 40000;
    file_end = round_up(file_end, 4);
  }
  f.group.elements = group_end;
  f.file.resize(static_cast<size_t>(round_up(file_end, 4096)));
  f.expected.assign(static_cast<size_t>(group_end), 0);
  for (size_t i = 0; i < f.places.size(); ++i)
    for (int64_t e = 0; e < f.group.tensors[i].elements; ++e) {
      const auto value = static_cast<float>(static_cast<int>(random() % 512) - 256) / 64;  // exact in every dtype
      std::byte* at = f.file.data() + f.places[i].offset + e * size_of(f.places[i].dtype);
      if (f.places[i].dtype == Dtype::f32) {
        std::memcpy(at, &value, 4);
      } else if (f.places[i].dtype == Dtype::bf16) {
        const uint16_t bits = float_to_bf16(value);
        std::memcpy(at, &bits, 2);
      } else {
        const _Float16 half = static_cast<_Float16>(value);
        std::memcpy(at, &half, 2);
      }
      f.expected[static_cast<size_t>(f.group.tensors[i].offset + e)] = value;
    }
  return f;
}

std::vector<std::byte> stage(const Fixture& f, const SourceChunk& chunk) {
  std::vector<std::byte> staging(static_cast<size_t>(chunk.staging_bytes), std::byte{0xee});
  for (const SourceRun& run : chunk.runs) {
    EXPECT_EQ(run.staging % 4096, 0);
    const int64_t from = round_down(run.offset, 4096), to = round_up(run.offset + run.bytes, 4096);
    std::memcpy(staging.data() + run.staging, f.file.data() + from, static_cast<size_t>(to - from));
  }
  return staging;
}

TEST(SourceTable, PutsEveryElementInItsPlaceAndZerosInTheGaps) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    const Fixture f = make_fixture(seed);
    for (const int64_t chunk_elements : {4096, 8192, 1 << 20}) {
      const GroupSource source = locate(f.group, f.places, 0, chunk_elements);
      std::vector<float> weights(f.expected.size(), -7);
      for (size_t c = 0; c < source.chunks.size(); ++c) {
        const auto begin = static_cast<int64_t>(c) * chunk_elements;
        const int64_t end = std::min(begin + chunk_elements, f.group.elements);
        const std::vector<std::byte> staging = stage(f, source.chunks[c]);
        // Two halves, as two workers would.
        const int64_t middle = begin + (end - begin) / 2;
        for (const auto& [first, last] : {std::pair(begin, middle), std::pair(middle, end)})
          unpack_weights(source.chunks[c], staging, Dtype::f32, false, first, last, begin,
                         reinterpret_cast<std::byte*>(weights.data() + begin));
      }
      EXPECT_EQ(weights, f.expected);
    }
  }
}

TEST(SourceTable, HalvesAreRoundedToTheNearest) {
  const Fixture f = make_fixture(4);
  const GroupSource source = locate(f.group, f.places, 0, 1 << 20);
  std::vector<uint16_t> halves(f.expected.size());
  unpack_weights(source.chunks[0], stage(f, source.chunks[0]), Dtype::f16, false, 0, f.group.elements, 0,
                 reinterpret_cast<std::byte*>(halves.data()));
  for (size_t i = 0; i < halves.size(); ++i) EXPECT_EQ(halves[i], float_to_f16(f.expected[i]));
}

TEST(SourceTable, HighAndLowHalvesJoinToTheFp32Source) {
  const Fixture f = make_fixture(3);
  const GroupSource source = locate(f.group, f.places, 0, 1 << 20);
  EXPECT_TRUE(source.wider_than_bf16);
  const std::vector<std::byte> staging = stage(f, source.chunks[0]);
  std::vector<uint16_t> hi(f.expected.size());
  std::vector<int16_t> lo(f.expected.size());
  unpack_weights(source.chunks[0], staging, Dtype::bf16, true, 0, f.group.elements, 0,
                 reinterpret_cast<std::byte*>(hi.data()));
  unpack_low_bits(source.chunks[0], staging, 0, f.group.elements, 0, lo.data());
  for (size_t i = 0; i < hi.size(); ++i) EXPECT_EQ(join_master(hi[i], lo[i]), f.expected[i]);
}

// States as extents of other chunks hold them, each in pieces anywhere in two files, come out as one would lay them.
TEST(SourceTable, StatesComeFromPiecesOfExtentsCutOtherwise) {
  const std::vector<StateLayout> layouts = {
      StateLayout(MomentFormat::f32, Dtype::f32), StateLayout(MomentFormat::bf16, Dtype::bf16),
      StateLayout(MomentFormat::int8, Dtype::bf16, {{4096, 8192}, {20480, 20992}}, {{30000, 30208}})};
  constexpr int64_t kElements = 50'000, kStoredChunk = 12'288;
  for (const StateLayout& layout : layouts) {
    std::mt19937_64 random(7);
    std::array<std::vector<std::byte>, kStateParts> numbers;  // of the whole group, by part
    const StateSpans all = layout.spans(0, kElements);
    for (size_t part = 0; part < all.size(); ++part) {
      numbers[part].resize(static_cast<size_t>(all[part].bytes()));
      for (std::byte& byte : numbers[part]) byte = static_cast<std::byte>(random());
    }
    const auto fill = [&](int64_t begin, int64_t end, std::byte* states) {
      const StateSpans spans = layout.spans(begin, end);
      for (size_t part = 0; part < spans.size(); ++part)
        if (spans[part].count > 0)
          std::memcpy(states + spans[part].offset,
                      numbers[part].data() + spans[part].begin * size_of(spans[part].dtype),
                      static_cast<size_t>(spans[part].bytes()));
    };

    std::array<std::vector<std::byte>, 2> files;
    StateSource source;
    for (int64_t begin = 0; begin < kElements; begin += kStoredChunk) {
      const int64_t end = std::min(begin + kStoredChunk, kElements);
      std::vector<std::byte> extent(static_cast<size_t>(round_up(layout.bytes(begin, end), 4096)));
      fill(begin, end, extent.data());
      std::vector<FileRange> ranges;
      for (int64_t at = 0; at < static_cast<int64_t>(extent.size());) {
        const auto file = random() % 2;
        const int64_t bytes =
            std::min<int64_t>(4096 * static_cast<int64_t>(1 + random() % 5), static_cast<int64_t>(extent.size()) - at);
        files[file].resize(files[file].size() + 4096 * (random() % 30));
        ranges.push_back({static_cast<int>(file), static_cast<int64_t>(files[file].size()), bytes});
        files[file].insert(files[file].end(), extent.begin() + at, extent.begin() + at + bytes);
        at += bytes;
      }
      const StateSpans spans = layout.spans(begin, end);
      for (size_t part = 0; part < spans.size(); ++part)
        append_segments(source[part], ranges, spans[part].dtype, spans[part].offset, spans[part].begin,
                        spans[part].count);
    }

    for (const int64_t chunk : {int64_t{4096}, kStoredChunk, int64_t{20'480}, int64_t{1 << 20}})
      for (int64_t begin = 0; begin < kElements; begin += chunk) {
        const int64_t end = std::min(begin + chunk, kElements);
        const SourceChunk where = locate_states(source, layout, begin, end);
        std::vector<std::byte> staging(static_cast<size_t>(where.staging_bytes), std::byte{0xee});
        for (const SourceRun& run : where.runs) {
          const std::vector<std::byte>& file = files[static_cast<size_t>(run.file)];
          const int64_t from = round_down(run.offset, 4096);
          const int64_t to = std::min(round_up(run.offset + run.bytes, 4096), static_cast<int64_t>(file.size()));
          std::memcpy(staging.data() + run.staging, file.data() + from, static_cast<size_t>(to - from));
        }
        std::vector<std::byte> expected(static_cast<size_t>(layout.bytes(begin, end)));
        std::vector<std::byte> restored(expected.size());
        fill(begin, end, expected.data());
        const StatesChunk into{&layout, begin, end, restored.data()};
        const int64_t middle = std::min(round_up((end - begin) / 2, kStateBlock), end - begin);
        restore_states(into, where, staging, 0, middle);
        restore_states(into, where, staging, middle, end - begin);
        ASSERT_EQ(restored, expected) << name_of(layout.moments()) << " from " << begin << " by " << chunk;
      }
  }
}

TEST(SplitMaster, JoinsToTheSameBitsForEveryKindOfNumber) {
  std::mt19937 random(11);
  for (int i = 0; i < 1'000'000; ++i) {
    const auto bits = static_cast<uint32_t>(random());
    const SplitMaster split = split_master(std::bit_cast<float>(bits));
    ASSERT_EQ(std::bit_cast<uint32_t>(join_master(split.hi, split.lo)), bits);
  }
}

}  // namespace
}  // namespace sluice::exec
