// Two texts beside each other, line by line, as diff -u shows them but without line numbers.
#pragma once

#include <string>

namespace sluice::train {

// Lines of `before` that are gone begin with "- ", those new in `after` with "+ "; lines of both are left out but for
// the nearest unindented one above a difference, with "  ". Empty when the texts are equal.
std::string line_diff(const std::string& before, const std::string& after);

}  // namespace sluice::train
