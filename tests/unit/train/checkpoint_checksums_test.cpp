// Every byte of a folder counts: one flipped, one missing, one too many is found and named.
#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <random>

#include "runtime/core/check.h"
#include "runtime/core/result.h"
#include "runtime/train/checksums.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

class ChecksumsTest : public JobFolder {
 protected:
  // Two parts, the second longer than a verification's buffer.
  void SetUp() override {
    JobFolder::SetUp();
    std::mt19937 generator(5);
    std::string bytes(kHeaderBytes + kTensorBytes, '\0');
    for (char& byte : bytes) byte = static_cast<char>(generator());
    write("big.bin", bytes);
    write("small.json", "{}\n");
    sums_["small.json"] = sums_of("{}\n");
    FileSums& big = sums_["big.bin"] = {static_cast<int64_t>(bytes.size()), {}};
    big.parts.push_back({"header", 0, kHeaderBytes, digest_of(bytes.substr(0, kHeaderBytes))});
    big.parts.push_back({"weight", kHeaderBytes, kTensorBytes, digest_of(bytes.substr(kHeaderBytes))});
  }

  static uint64_t digest_of(const std::string& text) {
    RunningSum sum;
    // Pieces of odd sizes, as chunks of a tensor come.
    for (size_t begin = 0; begin < text.size(); begin += 999'983)
      sum.add(std::as_bytes(std::span(text).subspan(begin, std::min<size_t>(999'983, text.size() - begin))));
    return sum.digest();
  }

  static void flip_bit(const std::string& file, std::streamoff offset) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(offset);
    const char byte = static_cast<char>(stream.get() ^ 4);
    stream.seekp(offset);
    stream.put(byte);
  }

  std::string damage() const { return find_damage(folder_, sums_).value_or("none"); }

  static constexpr int64_t kHeaderBytes = 4096, kTensorBytes = (int64_t{9} << 20) + 17;
  Checksums sums_;
};

TEST_F(ChecksumsTest, a_whole_folder_has_no_damage) {
  write("another file.txt", "not of the checkpoint");
  EXPECT_EQ(damage(), "none");
}

TEST_F(ChecksumsTest, one_flipped_bit_is_found_wherever_it_is) {
  const std::string file = (folder_ / "big.bin").string();
  for (const int64_t offset : {kHeaderBytes, kHeaderBytes + (int64_t{4} << 20), kHeaderBytes + kTensorBytes - 1}) {
    flip_bit("big.bin", offset);
    EXPECT_EQ(damage(), file + " is damaged: the checksum of 'weight' (bytes 4096 to 9441297) does not match");
    flip_bit("big.bin", offset);
  }
  EXPECT_EQ(damage(), "none");
  flip_bit("big.bin", 4095);
  EXPECT_EQ(damage(), file + " is damaged: the checksum of 'header' (bytes 0 to 4096) does not match");
  flip_bit("big.bin", 4095);
  flip_bit("small.json", 1);
  EXPECT_EQ(damage(), (folder_ / "small.json").string() + " is damaged: its checksum does not match");
}

TEST_F(ChecksumsTest, a_file_cut_short_or_grown_or_gone_is_named) {
  const std::string file = (folder_ / "big.bin").string();
  std::filesystem::resize_file("big.bin", 9441296);
  EXPECT_EQ(damage(), file + " is damaged: it has 9441296 bytes, 9441297 were written");
  std::filesystem::resize_file("big.bin", 9441298);
  EXPECT_EQ(damage(), file + " is damaged: it has 9441298 bytes, 9441297 were written");
  std::filesystem::remove("big.bin");
  EXPECT_EQ(damage(), file + " cannot be read: No such file or directory");
}

TEST_F(ChecksumsTest, the_first_of_several_damages_is_named_every_time) {
  flip_bit("big.bin", 0);
  flip_bit("big.bin", 5000);
  flip_bit("small.json", 0);
  for (int i = 0; i < 20; ++i) EXPECT_NE(damage().find("'header'"), std::string::npos);
}

TEST_F(ChecksumsTest, what_is_written_is_read_back) {
  write("checksums.json", to_json(sums_));
  sums_ = read_checksums("checksums.json");
  EXPECT_EQ(damage(), "none");
  flip_bit("big.bin", 7);
  EXPECT_NE(damage(), "none");
}

TEST_F(ChecksumsTest, one_flipped_bit_of_the_sums_themselves_is_found_wherever_it_is) {
  const std::string whole = to_json(sums_);
  for (size_t byte = 0; byte + 1 < whole.size(); ++byte)  // the last is a line's end, which nothing asks for
    for (int bit = 0; bit < 8; ++bit) {
      std::string text = whole;
      text[byte] = static_cast<char>(text[byte] ^ (1 << bit));
      write("checksums.json", text);
      try {
        read_checksums("checksums.json");
        // Between JSON's words other white space says the same.
        EXPECT_TRUE(std::isspace(whole[byte]) && std::isspace(text[byte])) << byte << " of\n" << text;
      } catch (const SetupError& error) {
        EXPECT_TRUE(std::string(error.what()).starts_with("checksums.json is damaged: ")) << error.what();
      }
    }
}

// Refused for what they say, not for the checksum of the sums: those of old have none.
TEST_F(ChecksumsTest, sums_that_make_no_sense_are_refused) {
  std::string whole = to_json(sums_);
  const size_t own = whole.find(",\n \"own\"");
  ASSERT_NE(own, std::string::npos);
  whole.replace(own, std::string::npos, "\n}\n");
  write("checksums.json", whole);
  EXPECT_EQ(read_checksums("checksums.json").size(), sums_.size());
  const auto refused_when = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    text.replace(text.find(from), from.size(), to);
    write("checksums.json", text);
    try {
      read_checksums("checksums.json");
    } catch (const SetupError& error) {
      return std::string(error.what()).starts_with("checksums.json is damaged: ");
    }
    return false;
  };
  EXPECT_TRUE(refused_when("\"files\"", "\"fales\""));
  EXPECT_TRUE(refused_when("xxh3_64", "xxh3_65"));
  EXPECT_TRUE(refused_when("4096", "4097")) << "parts that do not cover the file";
  EXPECT_TRUE(refused_when("\"xxh3\": \"", "\"xxh3\": \"g"));
  EXPECT_TRUE(refused_when("\"offset\": 4096", "\"offset\": 0")) << "parts that overlap, and leave the end uncovered";
  EXPECT_TRUE(refused_when("9441297", "-1")) << "a size below zero";
  EXPECT_TRUE(refused_when("9441297", "18446744073709551615")) << "a size that would be negative";
  EXPECT_TRUE(refused_when("9441297", "1e300"));
  EXPECT_TRUE(refused_when("\"bytes\": 4096", "\"bytes\": 9223372036854775807")) << "a sum that overflows";
  EXPECT_TRUE(refused_when("\"header\"", std::string(100'000, '['))) << "levels without end";
  EXPECT_TRUE(refused_when("{", ""));
}

TEST_F(ChecksumsTest, a_file_outside_the_folder_is_refused) {
  for (const char* name : {"../small.json", "a/../../small.json", "/dev/zero", ""}) {
    write("checksums.json", to_json({{name, sums_of("{}\n")}}));
    EXPECT_THROW(read_checksums("checksums.json"), SetupError) << name;
  }
  std::filesystem::create_directory("templates");
  write("checksums.json", to_json({{"templates/a..b.jinja", sums_of("x")}}));
  EXPECT_EQ(read_checksums("checksums.json").size(), 1u);
}

// The name of a source file in a message is the repository's, or, through ccache, relative to the build: nothing of the
// folders that it was built in.
TEST(CheckTest, a_failed_check_names_its_file_without_the_build_machines_folders) {
  EXPECT_DEATH(SLUICE_CHECK(false, "on purpose"),
               "internal error at (\\.\\./)*tests/unit/train/checkpoint_checksums_test.cpp:[0-9]+ ");
}

}  // namespace
}  // namespace sluice::train
