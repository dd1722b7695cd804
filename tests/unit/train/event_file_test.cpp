#include "runtime/train/event_file.h"

#include <gtest/gtest.h>

namespace sluice::train {
namespace {

// RFC 3720, appendix B.4; the nine digits are the checksum's usual test.
TEST(EventFile, ChecksumsAreThoseOfTheStandard) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c(""), 0u);
}

}  // namespace
}  // namespace sluice::train
