// What Sluice keeps between runs of what it measured: ${XDG_CACHE_HOME:-$HOME/.cache}/sluice, names and dates in it.
#pragma once

#include <ctime>
#include <filesystem>
#include <optional>
#include <string>

namespace sluice::train {

// Throws SetupError when neither XDG_CACHE_HOME nor HOME is set.
std::filesystem::path cache_folder();

// 16 hexadecimal digits, for file names: equal texts, equal digits.
std::string short_hash(const std::string& text);

// As 2026-11-23T10:38:34Z.
std::string time_text(std::time_t time);
// Nothing when the text is no time, or lies ahead.
std::optional<double> days_since(const std::string& time_text);

// What this host computes with: processor, cores, memory, and the libraries' versions. A line each.
std::string host_identity();

}  // namespace sluice::train
